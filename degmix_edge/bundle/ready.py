"""Bundles that come with the package, so that a robot has something to run without building it.

`make bundle` builds them. They are opened by name wherever a bundle's path is expected.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "ready"
ENDING = ".degmix"


def names() -> list[str]:
    """Return the names of the bundles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob(f"*{ENDING}"))


def located(path: Path) -> Path:
    """Return where the bundle is that somebody calls `path`.

    A path of one part at which there is nothing may be the name of a bundle of the package, as in
    `degmix_tiny` or `degmix_tiny.degmix`. Any other path is returned as it is.
    """
    name = path.name.removesuffix(ENDING)
    if len(path.parts) == 1 and name in names() and not path.exists():
        return FOLDER / f"{name}{ENDING}"
    return path
