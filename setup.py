"""Puts the processor's libraries of plugins/ into a wheel, where CMake and a compiler are found.

Everything else that a wheel is made of stands in pyproject.toml. An editable installation compiles
nothing: in a checkout, `make cpu-ops` does that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("degmix_edge", "native")
VARIABLE = "DEGMIX_WHEEL"
"""`native` makes a build fail where the libraries cannot be compiled; `pure` leaves them out."""


class Compile(build_ext):
    """Compiles with CMake, which reads compilers and flags from the environment."""

    def run(self) -> None:
        wanted = os.environ.get(VARIABLE, "")
        if self.editable_mode or wanted == "pure" or sys.platform != "linux":
            return
        build = Path(self.build_temp).resolve()
        own = [f"-DDEGMIX_NATIVE={Path(self.build_lib).resolve() / NATIVE}", "-DDEGMIX_CUDA=OFF"]
        steps = (
            ["cmake", "-S", "plugins", "-B", str(build), *own],
            ["cmake", "--build", str(build), "--parallel", "2"],
            ["cmake", "--install", str(build), "--strip"],
        )
        try:
            for step in steps:
                subprocess.run(step, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if wanted == "native":
                raise
            reason = error if isinstance(error, OSError) else f"cmake gave {error.returncode}"
            self.warn(
                f"the wheel is pure Python, because its libraries were not compiled ({reason}); "
                "install CMake and a C++ compiler for them. `degmix-edge doctor` says what they do"
            )

    def get_outputs(self) -> list[str]:
        return [str(path) for path in Path(self.build_lib, NATIVE).glob("*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Wheel(bdist_wheel):
    """Names the platform of the libraries, and no version of Python: they are no modules of it."""

    def get_tag(self) -> tuple[str, str, str]:
        libraries = self.get_finalized_command("build_ext").get_outputs()
        return "py3", "none", super().get_tag()[2] if libraries else "any"


setup(
    ext_modules=[Extension("degmix_edge.native", [])],
    cmdclass={"build_ext": Compile, "bdist_wheel": Wheel},
)
