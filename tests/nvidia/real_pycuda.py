"""PyCUDA itself, compiled from its source against the stand-in for CUDA's driver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_card import compile_stand_in

VERSION = "pycuda==2026.1"
SETTINGS = """
CUDA_ROOT = {root!r}
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = [{folder!r}]
"""


def build(folder: Path) -> None:
    """Make `folder/site`, for PYTHONPATH, and `folder/libcuda.so.1` with all that PyCUDA links to.

    Skips where there is no CUDA toolkit or no registry to be reached.
    """
    if shutil.which("nvcc") is None or shutil.which("nm") is None:
        pytest.skip("no CUDA toolkit or no binutils")
    folder.mkdir()
    library = folder / "libcuda.so.1"
    compile_stand_in(library)
    (folder / "libcuda.so").symlink_to(library)
    settings = SETTINGS.format(root=str(_toolkit()), folder=str(folder))
    (folder / ".aksetup-defaults.py").write_text(settings)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-binary"]
    command += ["pycuda", "--target", str(folder / "site"), VERSION]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr[-4000:]
    (extension,) = (folder / "site" / "pycuda").glob("_driver*.so")
    missing = _symbols(extension, "--undefined-only") - _symbols(library, "--defined-only")
    compile_stand_in(library, sorted(missing))


def _toolkit() -> Path:
    command = ["nvcc", "--dryrun", "-E", "-x", "cu", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    (root,) = re.findall(r"^#\$ TOP=(.*)$", done.stderr, re.M)
    return Path(root).resolve()


def _symbols(library: Path, which: str) -> set[str]:
    command = ["nm", "--dynamic", which, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}
    return {name for name in names if re.match(r"cu[A-Z]", name)}
