"""Files with which other programs run a bundle's model: one file here for each target.

`emit` writes a folder that holds the model, and what the target reads besides it. The folder needs
neither degmix-edge nor the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from degmix_edge import registry
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.files import check_folder, output_errors
from degmix_edge.folders import locked, write_folder
from degmix_edge.workflows.emit._base import Emission, emission


@dataclass(frozen=True)
class Emitted:
    """A folder that was written.

    Attributes:
        target: What it is for.
        out: The folder.
        name: How the files call the model.
        files: Paths inside the folder, in order.
    """

    target: str
    out: Path
    name: str
    files: tuple[str, ...]


def targets() -> list[str]:
    """Names of all targets."""
    return registry.names(__name__)


def emit(
    target: str,
    bundle: str | Path | Bundle,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    force: bool = False,
) -> Emitted:
    """Write the files with which another program runs the model of a bundle.

    Args:
        target: `triton`, `isaac`, `deepstream`, `python` or `cpp`.
        bundle: The bundle, or its folder.
        out: The folder to write, which appears whole or not at all.
        size: Height and width of a bundle that has several sizes; None takes its first.
        force: Replace a folder at `out` that holds nothing else than an earlier call wrote.

    Raises:
        ConfigError: There is no such target, or the bundle has no such size.
        BundleError: The bundle cannot be opened.
        OutputError: `out` exists without `force`, holds other files, or cannot be written.
    """
    if target not in targets():
        raise ConfigError(registry.unknown("target", target, targets()))
    place = Path(out)
    if not force:
        _check_absent(place)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    source = emission(opened.at(size))
    files = _render(target, source)
    check_folder(place.absolute().parent)
    with locked(place):
        _check_replaceable(place, files) if force else _check_absent(place)
        write_folder(place, files)
    return Emitted(target, place, source.name, tuple(files))


def _render(target: str, source: Emission) -> dict[str, bytes]:
    return cast("dict[str, bytes]", registry.find(__name__, target).render(source))


def _check_absent(place: Path) -> None:
    with output_errors(place):
        if place.exists():
            raise OutputError(f"{place}: exists; give --force to replace it, or another --out")


def _check_replaceable(place: Path, files: dict[str, bytes]) -> None:
    """Refuse to replace what is no folder, or holds a file that would be lost."""
    with output_errors(place):
        if not place.exists():
            return
        if not place.is_dir():
            raise OutputError(f"{place}: is a file, so --force does not replace it")
        present = {p.relative_to(place).as_posix() for p in place.rglob("*") if not p.is_dir()}
    if foreign := sorted(present - files.keys()):
        raise OutputError(
            f"{place}: holds {foreign[0]!r}, which this target does not write and which would be "
            "lost; move it away, or choose another --out"
        )
