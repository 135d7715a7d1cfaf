"""What setup.py puts into a wheel: the processor's libraries, or none where nothing compiles."""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = shutil.which("cmake") and shutil.which("c++")
LIBRARIES = {"libdegmix_cpu.so", "libdegmix_pixels.so"}
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "CMakeLists.txt", "LICENSE", "README.md")
pytestmark = [
    pytest.mark.slow(file_seconds=12),
    pytest.mark.skipif(sys.platform != "linux", reason="libraries are built on Linux"),
]


@pytest.fixture
def source(tmp_path):
    """A checkout without the larger data, so that nothing is built in the real one."""
    folder = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__", "native", "ready", "weights")
    for name in ("degmix_edge", "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in ("training", "calibration"):
        (folder / name).mkdir()
    return folder


def wheel(source, **environment):
    """Build as pip does; the wheel's path, and what was printed."""
    code = "import setuptools.build_meta as b; print(b.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ChildProcessError(done.stderr)
    return source / "dist" / done.stdout.splitlines()[-1], done.stdout + done.stderr


def natives(path):
    with zipfile.ZipFile(path) as archive:
        return {Path(n).name for n in archive.namelist() if n.startswith("degmix_edge/native/")}


@pytest.mark.skipif(not TOOLS, reason="no CMake or no C++ compiler")
def test_a_wheel_has_the_libraries_and_finds_them(source, tmp_path):
    # Flags of the builder's own processor must not get into a wheel: it runs on older ones too.
    path, _ = wheel(source, DEGMIX_WHEEL="native", CXXFLAGS="-march=native")
    assert path.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    assert natives(path) == LIBRARIES
    site = tmp_path / "site"
    zipfile.ZipFile(path).extractall(site)
    code = (
        "import numpy as np; from degmix_edge import pixel_library; "
        "from degmix_edge.backends import _cpu_ops; print(pixel_library.library()); "
        "print(pixel_library.resize(np.full((9, 9, 3), 5, np.uint8), 4, 4).ravel().tolist()); "
        "print(_cpu_ops.instruction_set(_cpu_ops.library()))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DEGMIX_")}
    environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found, resized, isa = done.stdout.splitlines()
    assert found == str(site / "degmix_edge" / "native" / "libdegmix_pixels.so")
    assert resized == str([5] * 48)
    assert isa in ("avx2", "plain")
    if emulator := shutil.which("qemu-x86_64"):
        check_on_an_old_processor(emulator, found, tmp_path)


def check_on_an_old_processor(emulator, library, folder):
    """Call a library on a processor without AVX, where a newer instruction ends the program."""
    program = folder / "call.cpp"
    program.write_text(
        """#include <cstdint>
extern "C" int32_t degmix_pixels_to_rgb(void const*, int32_t, int64_t, int64_t, uint8_t*);
static uint8_t frame[64 * 64 * 3], rgb[64 * 64 * 3];
int main() { return degmix_pixels_to_rgb(frame, 2, 64, 64, rgb); }
"""
    )
    flags = [library, f"-Wl,-rpath,{Path(library).parent}"]
    subprocess.run(["c++", program, *flags, "-o", folder / "call"], check=True)
    subprocess.run([emulator, "-cpu", "qemu64", folder / "call"], check=True)


def test_without_a_compiler_a_wheel_is_pure_python(source, tmp_path):
    path, printed = wheel(source, PATH=str(tmp_path))
    assert path.name.endswith("-py3-none-any.whl")
    assert natives(path) == set()
    assert "the wheel is pure Python, because its libraries were not compiled" in printed
    with pytest.raises(ChildProcessError, match="'cmake'"):
        wheel(source, PATH=str(tmp_path), DEGMIX_WHEEL="native")
