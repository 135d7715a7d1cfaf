"""Our TensorRT plugin library: where it is.

`make plugin` compiles `plugins/` and puts it beside this package, one library a major version of
TensorRT.
"""

from __future__ import annotations

import os
from pathlib import Path

from degmix_edge.errors import ConfigError

VARIABLE = "DEGMIX_TRT_PLUGIN"
"""A path to the library, or `none` to do without."""
FOLDER = Path(__file__).parents[1] / "native"


def library(major: str) -> Path | None:
    """The library for TensorRT `major`, or None where there is none.

    Raises:
        ConfigError: The environment names a file that is not there.
    """
    named = os.environ.get(VARIABLE)
    if named == "none":
        return None
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{VARIABLE}={named}: no such file; unset it, or run `make plugin`")
        return Path(named)
    path = FOLDER / f"libdegmix_trt{major}.so"
    return path if path.is_file() else None
