"""The chart of how calibrated ranges settle with the number of images."""

from __future__ import annotations

import math

from degmix_edge.quant.ranges import Ranges
from degmix_edge.report.charts import Axis, Plot, Point, Series
from degmix_edge.report.page import standalone_svg

MOST = 3.0
"""Larger ratios are drawn here."""


def convergence(ranges: Ranges) -> str:
    """Return an SVG file of the ranges after 1, 2, 4 ... images, relative to the final ones."""
    steps = ranges.convergence
    x = [math.log2(s.images) for s in steps]
    upper = [Point(at, min(s.high, MOST)) for at, s in zip(x, steps, strict=True)]
    lower = [Point(at, s.low) for at, s in zip(x, steps, strict=True)]
    median = tuple(
        Point(at, s.median, f"{s.images} images: {s.median:.3g}")
        for at, s in zip(x, steps, strict=True)
    )
    images = tuple((at, str(s.images)) for at, s in zip(x, steps, strict=True))
    total = steps[-1].images if steps else 0
    worst = steps[-2] if len(steps) > 1 else None
    return standalone_svg(
        Plot(
            f"Ranges of {len(ranges.tensors)} tensors, relative to those after all {total} images",
            Axis("calibration images", ticks=images),
            Axis("median tensor; band: 80 % of them"),
            (
                Series("80 % of the tensors", (*upper, *reversed(lower)), "band"),
                Series("median", median, "line"),
            ),
            marks=((1.0, ""),),
            note=f"after {worst.images} images the farthest is {worst.worst} at "
            f"{worst.worst_ratio:.2f} of its final range"
            if worst
            else "",
        )
    )
