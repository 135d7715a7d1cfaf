"""The native half, built once for all tests: kernels for the processor, and their plugin."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INTERFACE = Path(__file__).parent / "plugins" / "tensorrt_interface"


def configure(folder: Path, *options: str) -> str:
    """Configure plugins/ as a project of its own; what cmake said."""
    command = ["cmake", "-S", str(ROOT / "plugins"), "-B", str(folder), *options]
    if shutil.which("ninja"):
        command += ["-G", "Ninja"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def emulated() -> Path:
    """The folder of a build for the processor, against our own TensorRT interface."""
    from conftest import shared_file

    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    return shared_file("emulated.built", build_emulated).with_name("emulated")


def build_emulated(built: Path) -> None:
    """Build beside the file `built`, which says that all went well."""
    folder = built.with_name("emulated")
    options = ("-DDEGMIX_EMULATION=ON", "-DDEGMIX_CUDA=OFF", "-DDEGMIX_CPU_OPS=OFF")
    configure(folder, *options, f"-DTENSORRT_ROOT={INTERFACE}")
    command = ["cmake", "--build", str(folder), "--parallel", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr, done.stdout
    built.touch()


@pytest.fixture(scope="session")
def kernels(emulated):
    """The kernels, thread by thread on the processor."""
    from launches import native

    return native.Kernels(emulated / "libdegmix_kernels_emulated.so")
