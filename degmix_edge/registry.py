"""The file name is the registry: a module in a package is an entry, found by its name.

Other distributions add entries without a change here. They declare an entry point whose name is the
entry's name and whose value is a module like those in the folder:

    [project.entry-points."degmix_edge.tasks"]
    lane = "my_package.lane"

A file of ours wins over an entry point of the same name. Names come from the metadata of installed
distributions. A module is imported only when its entry is asked for.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
import warnings
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from degmix_edge.errors import ConfigError, DegmixWarning

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Kind(NamedTuple):
    """What the entries of one package are.

    Attributes:
        word: What people call one entry.
        group: Entry-point group that adds entries; empty where other distributions cannot add any.
        defines: Names that every entry's module defines.
        is_named: The first of `defines` carries the entry's name as its attribute `name`.
    """

    word: str
    group: str = ""
    defines: tuple[str, ...] = ()
    is_named: bool = False


KINDS = {
    "degmix_edge.tasks": Kind("task", "degmix_edge.tasks", ("TASK",), True),
    "degmix_edge.metrics": Kind("metric", "degmix_edge.metrics", ("Metric",), True),
    "degmix_edge.backends": Kind("backend", "degmix_edge.backends", ("Backend",), True),
    "degmix_edge.capture": Kind(
        "source", "degmix_edge.sources", ("recognises", "open_source", "EXPECTED")
    ),
    "degmix_edge.sinks": Kind("sink", "degmix_edge.sinks", ("recognises", "open_sink", "EXPECTED")),
    "degmix_edge.cli": Kind("verb", "degmix_edge.verbs", ("command",)),
    "degmix_calibration.observers": Kind("observer", "degmix_edge.observers", ("amax",)),
    "degmix_training.models": Kind("model", "degmix_edge.models", ("Model", "Config")),
    "degmix_training.data": Kind("data set", "degmix_edge.data", ("DataSet",), True),
    "degmix_training.authors": Kind("importer", "degmix_edge.importers", ("recognises", "read")),
}
"""By package. A package that is not here takes files only."""

TYPO = 0.8
"""Names that are at least as alike, by difflib's ratio, are one name and its misspelling."""
LEFT_OUT = "; it is left out"
_unusable: dict[tuple[str, str], str] = {}
"""Why an entry of another distribution failed to import, by package and name."""
_warned: set[str] = set()


def names(package: str) -> list[str]:
    """Names of all entries of `package`, sorted; nothing but the package itself is imported.

    Files that start with an underscore are not entries. An entry of another distribution that has
    failed to import in this process is left out, with one warning.
    """
    return sorted([*_own(package), *_usable(package)])


def find(package: str, name: str) -> ModuleType:
    """Import entry `name` of `package`.

    Raises:
        ConfigError: There is no such entry, and the message lists those that exist. Or it belongs
            to another distribution and is unusable, and the message names the distribution.
    """
    if name in _own(package):
        return importlib.import_module(f"{package}.{name}")
    if name in _foreign(package):
        return _import(package, name)
    kind, have = _kind(package), names(package)
    message = unknown(kind.word, name, have)
    if kind.group and not _nearest(name, have, TYPO):
        # Checkpoints and bundles name entries too, and travel to machines that lack the package.
        message += f" If another package defines this {kind.word}, install that package."
    raise ConfigError(message)


def modules(package: str) -> Iterator[tuple[str, ModuleType]]:
    """Name and module of every entry of `package`, each imported when its turn comes.

    Ours come first, then those of other distributions, both sorted. An entry of another
    distribution that fails to import is left out, with one warning.
    """
    for name in _own(package):
        yield name, importlib.import_module(f"{package}.{name}")
    for name in sorted(_foreign(package)):
        try:
            module = _import(package, name)
        except ConfigError:
            _warn(_unusable[package, name] + LEFT_OUT)
            continue
        yield name, module


def unknown(kind: str, name: str, have: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    have = list(have)
    near = _nearest(name, have)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"no {kind} {name!r}. Have: {', '.join(have) or 'none'}.{hint}"


def _nearest(name: str, have: list[str], likeness: float = 0.5) -> str:
    return next(iter(difflib.get_close_matches(name, have, n=1, cutoff=likeness)), "")


def _kind(package: str) -> Kind:
    return KINDS.get(package) or Kind(package.rsplit(".", 1)[-1].removesuffix("s"))


def _own(package: str) -> list[str]:
    paths = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def _usable(package: str) -> list[str]:
    usable = []
    for name in _foreign(package):
        reason = _unusable.get((package, name))
        if reason is None:
            usable.append(name)
        else:
            _warn(reason + LEFT_OUT)
    return usable


@functools.cache
def _foreign(package: str) -> dict[str, EntryPoint]:
    """Entry points of other distributions, by name; a name that is already taken is left out."""
    group = _kind(package).group
    if not group:
        return {}
    from importlib.metadata import entry_points  # late: `import degmix_edge` does not pay for it

    taken = dict.fromkeys(_own(package), "degmix-edge")
    entries = {}
    for entry in sorted(entry_points(group=group), key=_distribution):
        plain = entry.name.replace("-", "_")  # users may write either
        if plain.startswith("_"):
            continue
        if plain in taken:
            _warn(f"{_where(entry)}: {taken[plain]} already has that name" + LEFT_OUT)
            continue
        taken[plain] = _distribution(entry)
        entries[entry.name] = entry
    return entries


def _import(package: str, name: str) -> ModuleType:
    """The module of an entry point.

    Raises:
        ConfigError: It fails to import, or is not what an entry of `package` is.
    """
    entry = _foreign(package)[name]
    try:
        if ":" in entry.value:
            raise ImportError("its value names an object, expected a module")
        module: ModuleType = entry.load()
        _check(module, name, _kind(package))
    except Exception as error:  # whatever another distribution's code raises
        reason = f"{_where(entry)}: cannot be used: {type(error).__name__}: {error}"
        _unusable[package, name] = reason
        raise ConfigError(f"{reason}; repair or uninstall that package") from error
    _unusable.pop((package, name), None)
    return module


def _check(module: ModuleType, name: str, kind: Kind) -> None:
    missing = [part for part in kind.defines if not hasattr(module, part)]
    if missing:
        raise ImportError(
            f"module {module.__name__} has no {' and no '.join(missing)}, expected of a {kind.word}"
        )
    if kind.is_named:
        own = getattr(getattr(module, kind.defines[0]), "name", None)
        if own != name:
            raise ImportError(f"{kind.defines[0]} calls itself {own!r}, expected {name!r}")


def _distribution(entry: EntryPoint) -> str:
    return (entry.dist.name if entry.dist else "") or "unknown"


def _where(entry: EntryPoint) -> str:
    return (
        f"package {_distribution(entry)!r}, entry point {entry.name!r} ({entry.value}) of group "
        f"{entry.group!r}"
    )


def _warn(text: str) -> None:
    """Warn once a process, whatever the warning filters are."""
    if text not in _warned:
        _warned.add(text)
        warnings.warn(text, DegmixWarning, stacklevel=3)
