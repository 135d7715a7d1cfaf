"""The camera, its rays, and what every pixel sees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Camera(NamedTuple):
    origin: np.ndarray  # (3,) metres
    turn: np.ndarray  # (3, 3): columns are right, down, forward in world axes
    focal: float  # pixels


class Buffers(NamedTuple):
    """What every pixel sees, flat `(P, ...)`."""

    t: np.ndarray
    normals: np.ndarray
    semseg: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    material: np.ndarray


def rays_of(camera: Camera, height: int, width: int) -> np.ndarray:
    """`(P, 3)` in world axes, one unit deep."""
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1)
    x = (x + 0.5 - width / 2) / camera.focal
    y = (y + 0.5 - height / 2) / camera.focal
    right, down, forward = camera.turn.T
    return x[:, None] * right + y[:, None] * down + forward


def window(
    camera: Camera, centre: np.ndarray, radius: float, grid: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns that can see a bounding sphere."""
    x, y, z = (centre - camera.origin) @ camera.turn
    if z < radius + 0.05:
        return (slice(None), slice(None)) if z > -radius else (slice(0), slice(0))
    reach = camera.focal * radius / (z - radius) + 1
    row, column = (camera.focal * v / z + side / 2 for v, side in ((y, grid[0]), (x, grid[1])))
    # The sphere's picture is off its centre's by at most the reach again, at the image's border.
    spans = ((row - 1.6 * reach, row + 1.6 * reach), (column - 1.6 * reach, column + 1.6 * reach))
    rows, columns = (
        slice(int(np.clip(a, 0, n)), int(np.clip(b + 1, 0, n)))
        for (a, b), n in zip(spans, grid, strict=True)
    )
    return rows, columns
