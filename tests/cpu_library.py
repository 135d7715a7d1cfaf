"""Our library of CPU operators, compiled for tests."""

import shutil
import subprocess
from pathlib import Path

from conftest import shared

SOURCE = Path(__file__).parents[1] / "plugins" / "deform_sample"
COMPILER = shutil.which("g++") or shutil.which("c++")


def cpu_library() -> Path:
    """The library: compiled once a run, with warnings as errors."""
    flags = ["-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror"]
    names = ("deform_sample_cpu.cpp", "deform_sample_threads.cpp", "onnxruntime_op.cpp")
    sources = [str(SOURCE / name) for name in names]

    def make(path: Path) -> None:
        subprocess.run([COMPILER, *flags, *sources, "-o", str(path)], check=True)

    return shared("libdegmix_cpu.so", make)
