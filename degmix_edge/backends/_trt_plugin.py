"""Our TensorRT plugin library: where it is.

`make plugin` compiles `plugins/`, one library a major version of TensorRT.
"""

from __future__ import annotations

from pathlib import Path

from degmix_edge import libraries
from degmix_edge.errors import BackendError

VARIABLE = "DEGMIX_TRT_PLUGIN"
"""A path to the library, or `none` to do without."""


def library(major: str) -> Path | None:
    """The library for TensorRT `major`, or None where there is none.

    Raises:
        ConfigError: The environment names a file that is not there.
    """
    return libraries.find(f"libdegmix_trt{major}.so", VARIABLE, "make plugin")


def needed(major: str, form: str) -> Path:
    """The library for TensorRT `major`, which `form` needs.

    Raises:
        ConfigError: The environment names a file that is not there.
        BackendError: There is none.
    """
    path = library(major)
    if path is None:
        raise BackendError(
            f"--dcn {form}: our plugin library is not in {libraries.FOLDER} nor named by "
            f"{VARIABLE}; `make plugin` builds it (see plugins/README.md)"
        )
    return path
