"""The optional library of ONNX Runtime operators: where it is, and what it offers.

A wheel has it, and `make cpu-ops` compiles `plugins/deform_sample` in a checkout.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

from degmix_edge import libraries
from degmix_edge.errors import ConfigError

VARIABLE = "DEGMIX_CPU_OPS"
"""A path to the library, or `none` to leave it out."""
VERSION = "degmix_cpu1"


def library() -> Path | None:
    """The library's path, or None where there is none.

    Raises:
        ConfigError: The environment names a file that is not there.
    """
    return libraries.find("libdegmix_cpu.so", VARIABLE, "make cpu-ops")


@lru_cache
def instruction_set(path: Path) -> str:
    """What samples here: `avx2` or `plain`.

    Raises:
        ConfigError: The file is no such library, or of another machine.
    """
    try:
        handle = ctypes.CDLL(str(path))
        handle.degmixCpuIsa.restype = ctypes.c_char_p
        return str(handle.degmixCpuIsa().decode())
    except (OSError, AttributeError) as error:
        raise ConfigError(f"{path}: no library of operators for this machine: {error}") from None
