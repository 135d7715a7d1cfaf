"""The file name is the registry: a module in a package is an entry, found by its name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from degmix_edge.errors import ConfigError


def names(package: str) -> list[str]:
    """Entries of a package, sorted. Files that start with an underscore are not entries."""
    paths = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def find(package: str, name: str) -> ModuleType:
    """Import entry `name` of `package`.

    Raises:
        ConfigError: There is no such entry; the message lists those that exist.
    """
    have = names(package)
    kind = package.rsplit(".", 1)[-1].removesuffix("s")
    if name not in have:
        raise ConfigError(unknown(kind, name, have))
    return importlib.import_module(f"{package}.{name}")


def unknown(kind: str, name: str, have: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    have = list(have)
    near = difflib.get_close_matches(name, have, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {kind} {name!r}. Have: {', '.join(have) or 'none'}.{hint}"
