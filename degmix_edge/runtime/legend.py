"""Legends: pictures that say what the colours of a map mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.tasks import TaskSpec, colour, look

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

MARGIN = 8
"""Pixels around a legend, between its rows and between its columns."""
SWATCH = 16
"""Height of a swatch or a bar, and width of a swatch, in pixels."""
BAR = 256
"""Length of a bar in pixels."""
ROW = SWATCH + MARGIN
"""Pixels from the top of one row to the top of the next."""
FONT_SIZE = 13
_WHITE, _GREY, _BLACK = (255, 255, 255), (160, 160, 160), (0, 0, 0)


@dataclass(frozen=True)
class _Row:
    """One row: colours `(SWATCH, W, 3)`, and the texts to the left and to the right of them."""

    colours: np.ndarray
    right: str
    left: str = ""


def class_legend(spec: TaskSpec) -> np.ndarray:
    """A column of swatches, one for each class with its name, as uint8 RGB `(H, W, 3)`."""
    names = spec.classes or tuple(f"class {index}" for index in range(spec.num_channels))
    certain = np.eye(len(names), dtype=np.float32)  # each class by itself
    swatches = (certain if spec.components else np.arange(len(names)))[:, None, None]
    rows = [
        _Row(np.broadcast_to(colour(swatch, spec), (SWATCH, SWATCH, 3)), name)
        for swatch, name in zip(swatches, names, strict=True)
    ]
    return _drawn(rows)


def bar_legend(spec: TaskSpec, largest: float) -> np.ndarray:
    """A bar of the colours up to `largest`, with the unit, as uint8 RGB `(H, W, 3)`."""
    smallest = -largest if look(spec) == "range" else 0
    values = np.linspace(smallest, largest, BAR, dtype=np.float32)[None].repeat(SWATCH, axis=0)
    row = _Row(colour(values, spec, largest), right=f"{largest:.3g}", left=f"{smallest:.3g}")
    return _drawn([row], title=f"{spec.name} ({spec.unit})")


def vector_legend(spec: TaskSpec, largest: float = 1.0) -> np.ndarray:
    """A bar for each component of a vector, up to `largest`, as uint8 RGB `(H, W, 3)`."""
    rows = []
    for index, axis in enumerate("xyz"[: spec.components] if look(spec) != "components" else ""):
        vectors = np.zeros((SWATCH, BAR, spec.components), np.float32)
        vectors[..., index] = np.linspace(-largest, largest, BAR)
        shown = colour(vectors, spec, largest)
        rows.append(_Row(shown, right=f"{largest:.3g}", left=f"{axis}: {-largest:.3g}"))
    return _drawn(rows, title=f"{spec.name} ({spec.unit})")


def _drawn(rows: Sequence[_Row], title: str = "") -> np.ndarray:
    """The rows below each other in aligned columns, under the title."""
    import PIL.Image
    import PIL.ImageDraw

    font = _font()
    lefts = max((_width(row.left, font) for row in rows), default=0)
    start = MARGIN + (lefts + MARGIN if lefts else 0)
    end = start + (rows[0].colours.shape[1] if rows else 0)
    after = end + MARGIN
    rights = max((_width(row.right, font) for row in rows), default=0)
    width = max(after + rights, MARGIN + _width(title, font))
    top = MARGIN + (ROW if title else 0)
    picture = PIL.Image.new("RGB", (width + MARGIN, top + ROW * len(rows)), _WHITE)
    draw = PIL.ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), title, fill=_BLACK, font=font)
    for index, row in enumerate(rows):
        y = top + ROW * index
        draw.text((MARGIN, y), row.left, fill=_BLACK, font=font)
        draw.rectangle((start - 1, y - 1, end, y + SWATCH), outline=_GREY)
        picture.paste(PIL.Image.fromarray(row.colours), (start, y))
        draw.text((after, y), row.right, fill=_BLACK, font=font)
    return np.array(picture)


def _font() -> FreeTypeFont | ImageFont:
    from PIL import ImageFont, features

    # A Pillow without FreeType has one font of one size, and raises when it is given a size.
    return ImageFont.load_default(FONT_SIZE if features.check("freetype2") else None)


def _width(text: str, font: FreeTypeFont | ImageFont) -> int:
    return int(np.ceil(font.getbbox(text)[2]))  # the ink, which can reach beyond the advance
