"""Draw the gallery of a report as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from degmix_edge.report.views import Panel

CELL_WIDTH = 192
GAP = 6
HEAD = 26
MARGIN = 130
INK, PAPER = (40, 48, 60), (255, 255, 255)


def contact_sheet(panels: Sequence[Panel]) -> Image.Image:
    """Draw each layer of each panel as one line: its name and the picture of every task.

    The last line of a panel has the differences, and its first line the image. Every picture is
    scaled to a width of `CELL_WIDTH` pixels.
    """
    tasks = list(dict.fromkeys(view.task.name for panel in panels for view in panel.views))
    heights = [round(CELL_WIDTH * p.image.shape[0] / p.image.shape[1]) for p in panels]
    lines = [_lines(panel) for panel in panels]
    tall = sum(len(x) * (h + GAP) + GAP for x, h in zip(lines, heights, strict=True))
    width = MARGIN + (len(tasks) + 1) * (CELL_WIDTH + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + tall + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, title in enumerate(["image", *tasks]):
        draw.text((_left(column), 4), title, INK, font)
    top = HEAD
    for panel, rows, height in zip(panels, lines, heights, strict=True):
        sheet.paste(_scaled(panel.image, height), (_left(0), top))
        for label, pictures in rows.items():
            draw.text((GAP, top + height // 2 - 8), label, INK, font)
            for column, task in enumerate(tasks):
                if task in pictures:
                    sheet.paste(_scaled(pictures[task], height), (_left(column + 1), top))
            top += height + GAP
        top += GAP
    return sheet


def _lines(panel: Panel) -> dict[str, dict[str, np.ndarray]]:
    """Pictures by line and task."""
    lines: dict[str, dict[str, np.ndarray]] = {}
    for view in panel.views:
        for name, picture in view.layers.items():
            lines.setdefault(name, {})[view.task.name] = picture
    gaps = {v.task.name: v.difference.picture for v in panel.views if v.difference}
    return lines | ({"difference": gaps} if gaps else {})


def _left(column: int) -> int:
    return MARGIN + column * (CELL_WIDTH + GAP)


def _scaled(picture: np.ndarray, height: int) -> Image.Image:
    return Image.fromarray(picture).resize((CELL_WIDTH, height), Image.Resampling.BILINEAR)
