"""Our library of CUDA kernels: where it is. `make plugin` compiles it beside the plugin."""

from __future__ import annotations

from pathlib import Path

from degmix_edge.backends import _native

VARIABLE = "DEGMIX_KERNELS"
"""A path to the library, or `none` to do without."""


def library() -> Path | None:
    """The library's path, or None where there is none.

    Raises:
        ConfigError: The environment names a file that is not there.
    """
    return _native.find("libdegmix_kernels.so", VARIABLE, "make plugin")
