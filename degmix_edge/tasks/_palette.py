"""Class colours that readers with colour-blind eyes can tell apart."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Literal

Family = Literal["objects", "parts"]
RGB = tuple[int, int, int]

# fmt: off
OBJECTS: tuple[RGB, ...] = (
    (42, 85, 106), (149, 212, 128), (234, 149, 21), (255, 149, 255), (149, 149, 149),
    (255, 234, 64), (149, 42, 0), (106, 255, 212), (85, 0, 191), (106, 128, 170),
    (170, 128, 106), (170, 106, 255), (64, 64, 64), (212, 85, 0), (21, 42, 106),
    (106, 106, 106), (149, 0, 255), (106, 85, 64), (85, 21, 0), (42, 0, 42),
    (106, 170, 191), (85, 85, 170), (42, 212, 170), (170, 255, 149), (0, 0, 85),
    (64, 42, 64), (0, 149, 64), (42, 64, 42), (0, 0, 149), (170, 21, 128),
    (128, 149, 212), (191, 212, 85), (212, 64, 149), (106, 191, 85), (149, 85, 42),
    (42, 42, 42), (212, 128, 255), (149, 85, 212), (212, 149, 128), (85, 85, 85),
)
"""The first 20, and black, were searched for the largest smallest distance under normal vision and
under simulated protanopia, deuteranopia and tritanopia: at least 16 in CIELAB, and 12 by CIEDE2000.
The others are the farthest from all before them."""
PARTS: tuple[RGB, ...] = (
    (255, 232, 255), (70, 162, 70), (209, 162, 209), (162, 185, 162), (209, 255, 139),
    (162, 255, 185),
)
"""Light tints that are no colour of `OBJECTS`: at least 22 from each other and from black, and 13
from the first 20 of `OBJECTS`."""
# fmt: on
BACKGROUND: RGB = (0, 0, 0)


def palette(classes: Sequence[str], family: Family = "objects") -> tuple[RGB, ...]:
    """Return one colour per class; no colour is of both families.

    The same classes always have the same colours. A first class called `background` is black, and
    the other classes keep the order of their family.

    Args:
        classes: Names of the classes.
        family: `parts` for the parts of objects, so that both maps can be seen beside each other.
    """
    has_background = bool(classes) and classes[0] == "background"
    table = PARTS if family == "parts" else OBJECTS
    count = len(classes) - has_background
    colours = [*table[:count], *(_hue(i, family) for i in range(count - len(table)))]
    return (BACKGROUND, *colours) if has_background else tuple(colours)


def _hue(index: int, family: Family) -> RGB:
    """Golden-angle hues with three levels of brightness, for the classes behind the table."""
    hue, value, saturation = (index * 0.61803398875) % 1.0, (0.95, 0.7, 0.5)[index % 3], 0.65
    if family == "parts":
        value, saturation = 1.0, 0.3
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
