"""The optional library of operators for CPU backends: where it is, and what it offers.

A wheel has it, and `make cpu-ops` compiles `plugins/deform_sample` in a checkout.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

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


class SampleParams(ctypes.Structure):
    """The struct `DeformSampleParams` of plugins/deform_sample/deform_sample_cpu.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("value", "offset", "position", "output")),
        *((name, ctypes.c_int64) for name in ("channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("out_height", "out_width")),
    )


def instruction_set(path: Path) -> str:
    """What samples here: `avx2` or `plain`.

    Raises:
        ConfigError: The file is no such library, or of another machine.
    """
    return str(opened(path).degmixCpuIsa().decode())


@lru_cache
def opened(path: Path) -> Any:
    """The library's C interface.

    Raises:
        ConfigError: The file is no such library, or of another machine.
    """
    try:
        handle = ctypes.CDLL(str(path))
        handle.degmixCpuIsa.restype = ctypes.c_char_p
        handle.degmixCpuSample.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
    except OSError as error:
        raise ConfigError(f"{path}: no library of operators for this machine: {error}") from None
    except AttributeError as error:
        raise ConfigError(
            f"{path}: another library, or an older one ({error}): `make cpu-ops` builds it again"
        ) from None
    return handle
