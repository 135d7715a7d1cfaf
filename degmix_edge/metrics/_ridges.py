"""Non-maximum suppression of boundary probabilities, as published edge detectors apply it.

Dollar and Zitnick, "Fast Edge Detection Using Structured Forests", PAMI 2015, section 3, and the
code that they published with it.
"""

from __future__ import annotations

import numpy as np

SMOOTHING = 4
"""Radius in pixels of the triangle filter that the orientation is taken from."""
SLACK = 1.01
"""A pixel survives unless a neighbour across the line is more than this factor stronger."""
BORDER = 5
"""Width in pixels of the frame in which probabilities fade to 0."""


def suppress(scores: np.ndarray, *, smooth: bool = False) -> np.ndarray:
    """Keep only the ridges of a map of 8 bit probabilities.

    A pixel stays if no value one pixel away, on either side across the line, is more than 1 %
    stronger. Values between pixels are bilinear; outside the map, the nearest value inside counts.
    Then a frame of 5 pixels (of half the image, if that is less) fades linearly to 0.

    The direction across the line has the tangent `-sign(xy) * yy / (xx + 1e-5)` of the second
    derivatives of the map, smoothed by a triangle of radius 4. Published numbers rest on this
    formula: on a straight ridge it is the squared tangent of the true direction, which is right at
    multiples of 45 degrees and at most 13 degrees off in between. A cross derivative of 0 counts as
    negative, which turns level ridges the right way. All sums are sums of integers, so the result
    is the same on every machine.

    Args:
        scores: `(H, W)` uint8, a probability of 1 as 255.
        smooth: Whether the map itself is first smoothed by a triangle of radius 1, as some
            published pipelines do it.

    Returns:
        `(H, W)` float64 from 0 to 1; 0 wherever there is no ridge.
    """
    height, width = scores.shape
    one = 255
    if smooth:
        scores, one = _triangle(_triangle(scores.astype(np.int64), 0, 1), 1, 1), 255 * 4**2
    wide = _triangle(_triangle(scores.astype(np.int64), 0), 1)
    x, y = _twice_gradient(wide, 1), _twice_gradient(wide, 0)
    xx, xy, yy = _twice_gradient(x, 1), _twice_gradient(y, 1), _twice_gradient(y, 0)
    # Integers are larger than the derivatives by `one`, 25 a smoothing and 2 a gradient.
    tangent = np.where(xy > 0, -yy, yy) / (xx + 1e-5 * one * 25**2 * 2**2)

    rows, columns = np.nonzero(scores)
    own = scores[rows, columns]
    across = tangent[rows, columns]
    length = np.sqrt(1 + across * across)
    dx, dy = 1 / length, across / length
    allowed = own * SLACK
    stays = np.ones(len(own), bool)
    for side in (-1, 1):
        neighbour = _between(scores, rows + side * dy, columns + side * dx)
        stays &= allowed >= neighbour

    out = np.zeros((height, width), np.int64)
    out[rows[stays], columns[stays]] = own[stays]
    row_fade, row_full = _fade(height)
    column_fade, column_full = _fade(width)
    ridges: np.ndarray = out * row_fade[:, None] * column_fade / (one * row_full * column_full)
    return ridges


def _triangle(values: np.ndarray, axis: int, radius: int = SMOOTHING) -> np.ndarray:
    """`(radius + 1)^2` times the mean with weights 1 2 3 ... 3 2 1; the border is mirrored."""
    values = np.moveaxis(values, axis, 0)
    size = len(values)
    padded = np.pad(values, [(radius, radius), (0, 0)], mode="symmetric")
    out = np.zeros_like(values)
    for shift in range(-radius, radius + 1):
        weight = radius + 1 - abs(shift)
        out += weight * padded[radius + shift :][:size]
    return np.moveaxis(out, 0, axis)


def _twice_gradient(values: np.ndarray, axis: int) -> np.ndarray:
    """Two times the gradient: differences of both neighbours, one-sided at the border."""
    values = np.moveaxis(values, axis, 0)
    out = np.zeros_like(values)
    if len(values) > 1:
        out[1:-1] = values[2:] - values[:-2]
        out[0] = 2 * (values[1] - values[0])
        out[-1] = 2 * (values[-1] - values[-2])
    return np.moveaxis(out, 0, axis)


def _between(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bilinear values at places between pixels; outside, the nearest place inside counts."""
    height, width = values.shape
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    top, left = row.astype(np.intp), column.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, along = row - top, column - left
    upper = values[top, left] * (1 - along) + values[top, right] * along
    lower = values[bottom, left] * (1 - along) + values[bottom, right] * along
    mixed: np.ndarray = upper * (1 - down) + lower * down
    return mixed


def _fade(size: int) -> tuple[np.ndarray, int]:
    """Integer weights along one axis, and the weight that means 1."""
    full = max(1, min(BORDER, size // 2))
    index = np.arange(size)
    if size < 2:
        return np.zeros(size, np.int64), full
    return np.minimum(np.minimum(index, size - 1 - index), full), full
