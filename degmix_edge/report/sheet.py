"""Draw the gallery of a report as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from degmix_edge.report.page import Panel
from degmix_edge.tasks import TaskSpec

CELL_WIDTH = 192
GAP = 6
HEAD = 26
MARGIN = 130
INK, PAPER = (40, 48, 60), (255, 255, 255)


def contact_sheet(panels: Sequence[Panel], tasks: Sequence[TaskSpec]) -> Image.Image:
    """Draw each row of each panel as one line: its label and the picture of every task.

    The first line of a panel also has the image. Every picture is scaled to a width of
    `CELL_WIDTH` pixels.
    """
    heights = [round(CELL_WIDTH * p.image.shape[0] / p.image.shape[1]) for p in panels]
    lines = sum(len(p.rows) * (h + GAP) + GAP for p, h in zip(panels, heights, strict=True))
    width = MARGIN + (len(tasks) + 1) * (CELL_WIDTH + GAP) + GAP
    sheet = Image.new("RGB", (width, HEAD + lines + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, title in enumerate(["image", *(task.name for task in tasks)]):
        draw.text((_left(column), 4), title, INK, font)
    top = HEAD
    for panel, height in zip(panels, heights, strict=True):
        sheet.paste(_scaled(panel.image, height), (_left(0), top))
        for row in panel.rows:
            draw.text((GAP, top + height // 2 - 8), row.label, INK, font)
            for column, task in enumerate(tasks):
                if task.name in row.pictures:
                    picture = _scaled(row.pictures[task.name], height)
                    sheet.paste(picture, (_left(column + 1), top))
            top += height + GAP
        top += GAP
    return sheet


def _left(column: int) -> int:
    return MARGIN + column * (CELL_WIDTH + GAP)


def _scaled(picture: np.ndarray, height: int) -> Image.Image:
    return Image.fromarray(picture).resize((CELL_WIDTH, height), Image.Resampling.BILINEAR)
