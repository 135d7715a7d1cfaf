"""Draw what a network sees and says: its input, each map over it, and the legends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from degmix_edge.runtime import TaskMap

WIDTH, GAP, LINE = 320, 12, 20
INK, PAPER = (40, 48, 60), (255, 255, 255)
COLUMNS = 3


def spec_sheet(
    sees: np.ndarray, maps: Mapping[str, TaskMap], notes: Mapping[str, str]
) -> Image.Image:
    """Return one cell for the input and one for each map, with its numbers and its legend.

    Args:
        sees: The network's input, uint8 RGB `(H, W, 3)`.
        maps: The maps that can be drawn; raw outputs have their line only.
        notes: A line for each map.
    """
    cells = [_cell("input, as the network sees it", "", sees, None)]
    for name, one in maps.items():
        is_raw = one.spec.is_raw
        picture, legend = (None, None) if is_raw else (one.colour(), one.legend())
        cells.append(_cell(name, notes.get(name, ""), picture, legend))
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = COLUMNS * (WIDTH + GAP) + GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (GAP + column * (WIDTH + GAP), top))
        top += height + GAP
    return sheet


def _cell(
    title: str, note: str, picture: np.ndarray | None, legend: np.ndarray | None
) -> Image.Image:
    parts = [] if picture is None else [_as_wide(Image.fromarray(picture))]
    if legend is not None:
        image = Image.fromarray(legend)  # its letters are not enlarged
        parts.append(_as_wide(image) if image.width > WIDTH else image)
    cell = Image.new("RGB", (WIDTH, 2 * LINE + sum(part.height for part in parts)), PAPER)
    draw = ImageDraw.Draw(cell)
    draw.text((0, 0), title, INK, ImageFont.load_default(size=15))
    draw.text((0, LINE), note, INK, ImageFont.load_default(size=11))
    top = 2 * LINE
    for part in parts:
        cell.paste(part, (0, top))
        top += part.height
    return cell


def _as_wide(image: Image.Image) -> Image.Image:
    """Return the picture at a cell's width."""
    height = max(1, round(image.height * WIDTH / image.width))
    return image.resize((WIDTH, height), Image.Resampling.NEAREST)
