"""Labels that are not in the buffers yet: saliency and edges."""

from __future__ import annotations

import numpy as np

from degmix_training.data._layout import FIRST_INSTANCE, PERSON
from degmix_training.data._view import Buffers

CREASE = np.cos(np.deg2rad(25))
JUMP = 0.06
"""Depth step of an occlusion inside one object: fraction of depth beyond its slope's."""


def saliency(seen: Buffers, grid: tuple[int, int]) -> np.ndarray:
    """`(H, W)` uint8, 1 on people, or else on the object that covers most, weighted by the centre.

    People count where they cover more than 0.5 % of the image. `grid` is H and W.
    """
    people = seen.semseg == PERSON
    if people.sum() > 0.005 * len(people):
        return people.reshape(grid).astype(np.uint8)
    y, x = np.mgrid[-1 : 1 : grid[0] * 1j, -1 : 1 : grid[1] * 1j]
    weight = np.exp(-1.5 * (x * x + y * y)).ravel()
    things = seen.instance >= FIRST_INSTANCE
    share = np.bincount(seen.instance[things], weights=weight[things], minlength=1)
    best = int(np.argmax(share)) if len(share) else 0
    return (things & (seen.instance == best)).reshape(grid).astype(np.uint8)


def edges(seen: Buffers, normals: np.ndarray, focal: float, grid: tuple[int, int]) -> np.ndarray:
    """Mark the nearer pixel of every pair of neighbours that an edge parts."""
    depth, instance = seen.t.reshape(grid), seen.instance.reshape(grid)
    part = seen.part.reshape(grid)
    turned = normals.reshape(*grid, 3)
    y, x = np.mgrid[0 : grid[0], 0 : grid[1]]
    view = np.stack(((x + 0.5 - grid[1] / 2) / focal, (y + 0.5 - grid[0] / 2) / focal), axis=-1)
    view = np.concatenate((view, np.ones((*grid, 1))), axis=-1)
    edge = np.zeros(grid, bool)
    for axis in (0, 1):
        a, b = ((slice(None), slice(0, -1)), (slice(None), slice(1, None)))
        if axis == 0:
            a, b = a[::-1], b[::-1]
        # Where a's tangent plane would be met by b's ray: a slope is no step.
        along = np.sum(turned[a] * view[a], axis=-1) * depth[a]
        expected = along / np.minimum(np.sum(turned[a] * view[b], axis=-1), -1e-3)
        step = np.abs(depth[b] - expected) > JUMP * depth[a]
        crease = np.sum(turned[a] * turned[b], axis=-1) < CREASE
        same = (instance[a] == instance[b]) & (part[a] == part[b])
        parted = (
            (instance[a] != instance[b]) | (step & (crease | ~same)) | (crease & (part[a] == 0))
        )
        nearer = depth[a] <= depth[b]
        edge[a] |= parted & nearer
        edge[b] |= parted & ~nearer
    return edge.astype(np.uint8)
