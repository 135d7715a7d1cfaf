"""Figures of a report as HTML and SVG strings: no script, light and dark with the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, BARS = 360, 110, 64


def heat_map(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float], str]], limit: float = 1.0
) -> str:
    """A table whose cells are the redder the larger their value; `limit` and more is full red.

    Args:
        columns: Heads of the values, and a last one of the remark.
        rows: A label, its values, a remark.
        limit: Where the colour ends.
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


def histogram(title: str, counts: np.ndarray, limit: float, clip: float) -> str:
    """Magnitudes of a tensor on a log scale, and where they are clipped.

    Args:
        title: The tensor.
        counts: In equal bins from 0 to `limit`.
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
