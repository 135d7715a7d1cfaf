"""Plot what networks reach against what they cost, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Axis:
    """One axis: its label with the unit, and each point's value and deviation by name."""

    label: str
    values: Mapping[str, float]
    deviations: Mapping[str, float] = field(default_factory=dict)


def scatter(title: str, reached: Axis, axes: Sequence[Axis], *, zero: str = "") -> bytes:
    """Draw one panel per cost; a point has the same colour and marker in all panels.

    Args:
        title: Title above all panels.
        reached: The result on the vertical axis, where larger is better.
        axes: The costs on the horizontal axes; a point without a value is left out of that panel.
        zero: Meaning of `reached` = 0, where a line is drawn; no line if it is empty.

    Returns:
        The bytes of a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    marks = "osD^vPX*<>ph"
    for index, axis in enumerate(axes):
        plot = figure.add_subplot(rows, columns, index + 1)
        known = [x for x in axis.values.values() if x == x]
        for place, (name, y) in enumerate(reached.values.items()):
            x = axis.values.get(name)
            if x is None or x != x or y != y:
                continue
            mark, error = marks[place % len(marks)], reached.deviations.get(name)
            plot.errorbar([x], [y], error, marker=mark, color=f"C{place % 10}", capsize=3)
            # The name of a point in the right half is to its left.
            side = -1 if x > sum((min(known), max(known))) / 2 else 1
            plot.annotate(
                name, (x, y), xytext=(5 * side, 4), textcoords="offset points", fontsize=8,
                ha="left" if side > 0 else "right",
            )  # fmt: skip
        if zero:
            plot.axhline(0, color="0.6", linewidth=0.8)
            plot.annotate(
                zero, (0.99, 0), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=7, color="0.4",
            )  # fmt: skip
        plot.set_xlabel(axis.label, fontsize=9)
        plot.set_ylabel(reached.label if index % columns == 0 else "", fontsize=9)
        plot.margins(0.16)
        plot.grid(alpha=0.25)
        plot.tick_params(labelsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130)
    return png.getvalue()
