"""Find our native libraries: in the package, where wheels and `make` put them, or by a variable."""

from __future__ import annotations

import os
from pathlib import Path

from degmix_edge.errors import ConfigError

FOLDER = Path(__file__).parent / "native"


def find(file: str, variable: str, make: str) -> Path | None:
    """The library's path, or None where there is none or the variable says `none`.

    Args:
        file: Its name.
        variable: Environment variable that names another file.
        make: The command that builds it.

    Raises:
        ConfigError: The variable names a file that is not there.
    """
    named = os.environ.get(variable)
    if named == "none":
        return None
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{variable}={named}: no such file; unset it, or run `{make}`")
        return Path(named)
    path = FOLDER / file
    return path if path.is_file() else None
