"""Our library of CUDA kernels: where it is. `make plugin` compiles it beside the plugin."""

from __future__ import annotations

from pathlib import Path

from degmix_edge import libraries

VARIABLE = "DEGMIX_KERNELS"
"""A path to the library, or `none` to do without."""


def library() -> Path | None:
    """The library's path, or None where there is none.

    Raises:
        ConfigError: The environment names a file that is not there.
    """
    return libraries.find("libdegmix_kernels.so", VARIABLE, "make plugin")
