"""Figures of a report as HTML and SVG strings without scripts, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from degmix_edge.quant.ranges import Ranges

WIDTH, HEIGHT, BARS = 360, 110, 64


def heat_map(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float], str]], limit: float = 1.0
) -> str:
    """Return a table whose cells become redder with larger values.

    Args:
        columns: Headings of the values, followed by the heading of the remark.
        rows: For each row a label, its values and a remark.
        limit: The value from which a cell is fully red.
    """
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in ("layer", *columns))
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(map(lambda v: _cell(v, limit), values))
        + f"<td>{escape(remark)}</td></tr>"
        for label, values, remark in rows
    )
    return (
        f'<div class="wide"><table class="heat"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: float, limit: float) -> str:
    share = 100 * min(max(value / limit, 0.0), 1.0) if np.isfinite(value) else 100.0
    text = f"{100 * max(value, 0.0):.0f}" if np.isfinite(value) else "broken"
    style = f"background:color-mix(in srgb, var(--bad) {0.7 * share:.0f}%, transparent)"
    return f'<td style="{style}">{text}</td>'


def convergence(ranges: Ranges) -> str:
    """Return an SVG file of the ranges after 1, 2, 4 ... images, relative to the final ones."""
    steps = ranges.convergence
    left, top, wide, tall = 60, 46, 520, 220
    most = max(2.0, *(min(s.high, 3.0) for s in steps)) if steps else 2.0
    last = math.log2(max(steps[-1].images, 2)) if steps else 1.0

    def at(images: int, ratio: float) -> str:
        x = left + wide * math.log2(images) / last
        return f"{x:.1f},{top + tall * (1 - min(ratio, most) / most):.1f}"

    band = " ".join(
        [*(at(s.images, s.high) for s in steps), *(at(s.images, s.low) for s in reversed(steps))]
    )
    line = " ".join(at(s.images, s.median) for s in steps)
    marks = "".join(
        f'<text x="{at(s.images, 0).split(",")[0]}" y="{top + tall + 18}" text-anchor="middle">'
        f"{s.images}</text>"
        for s in steps
    )
    levels = "".join(
        f'<text x="{left - 8}" y="{float(at(1, r).split(",")[1]) + 4:.0f}" text-anchor="end">'
        f"{r:g}</text>"
        for r in (0, 0.5, 1, 1.5, 2)
        if r <= most
    )
    one = at(1, 1.0).split(",")[1]
    worst = steps[-2] if len(steps) > 1 else None
    note = (
        f"after {worst.images} images the farthest is {worst.worst} at {worst.worst_ratio:.2f} of "
        f"its final range"
        if worst
        else ""
    )
    box = f"0 0 {left + wide + 30} {top + tall + 70}"
    total = steps[-1].images if steps else 0
    middle = left + wide / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" '
        'aria-label="Ranges against the number of calibration images"><style>'
        "svg{background:#fff;color:#1c2430;font:13px system-ui,sans-serif}"
        "@media (prefers-color-scheme:dark){svg{background:#12171e;color:#e6eaf0}}"
        "text{fill:currentColor}</style>"
        f'<text x="{left}" y="24" font-size="16">Ranges of {len(ranges.tensors)} tensors, relative '
        f"to those after all {total} images</text>"
        f'<polygon points="{band}" fill="#3b82c4" opacity=".25"/><path d="M{left} {one}h{wide}" '
        'stroke="currentColor" opacity=".4" stroke-dasharray="4"/>'
        f'<polyline points="{line}" fill="none" stroke="#3b82c4" stroke-width="2.5"/>'
        f"{marks}{levels}"
        f'<text x="{middle}" y="{top + tall + 38}" text-anchor="middle">calibration images (line: '
        "median tensor; band: 80 % of them)</text>"
        f'<text x="{left}" y="{top + tall + 60}">{escape(note)}</text></svg>'
    )


def histogram(title: str, counts: np.ndarray, limit: float, clip: float) -> str:
    """Return a drawing of a tensor's magnitudes on a log scale, with the point of clipping.

    Args:
        title: Name of the tensor.
        counts: Counts in equal bins from 0 to `limit`.
        limit: The largest magnitude.
        clip: The magnitude that maps to 127.
    """
    starts = np.arange(0, len(counts), max(1, len(counts) // BARS))
    bars = np.log10(1 + np.add.reduceat(counts, starts))
    tall = float(bars.max()) or 1.0
    wide = WIDTH / len(bars)
    path = "".join(
        f"M{i * wide:.1f} {HEIGHT}v{-HEIGHT * 0.86 * b / tall:.1f}h{wide:.1f}V{HEIGHT}z"
        for i, b in enumerate(bars)
        if b > 0
    )
    x = min(clip / limit, 1.0) * WIDTH if limit else 0.0
    clipped = float(counts[round(len(counts) * min(clip / (limit or 1), 1)) :].sum())
    share = 100 * clipped / max(float(counts.sum()), 1)
    label = f"{title}: largest {limit:.3g}, clipped at {clip:.3g} ({share:.3g} % of the values)"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="{WIDTH}" '
        f'aria-label="{escape(label, quote=True)}"><path d="{path}" fill="currentColor" '
        f'opacity=".45"/><path d="M{x:.1f} 0V{HEIGHT}" stroke="var(--bad)" stroke-width="2"/></svg>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )
