"""Thinning: a mask becomes lines that are one pixel wide.

Guo and Hall, "Parallel Thinning with Two-Subiteration Algorithms", CACM 1989, algorithm 1. The
result is that of `skimage.morphology.thin`, which the tests compare against.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
"""The eight neighbours as (row, column), counterclockwise from the right; bit i of a code is the
i-th of them."""


@cache
def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """For each of the two turns, a bool table of which of the 256 neighbourhoods free a pixel."""
    tables = np.zeros((2, 256), bool)
    for code in range(256):
        n = [bool(code >> i & 1) for i in range(8)]
        crossings = sum(not n[i] and (n[i + 1] or n[(i + 2) % 8]) for i in (0, 2, 4, 6))
        one = sum(n[i] or n[i + 1] for i in (0, 2, 4, 6))
        other = sum(n[i + 1] or n[(i + 2) % 8] for i in (0, 2, 4, 6))
        if crossings == 1 and 2 <= min(one, other) <= 3:
            tables[0, code] = not (n[0] and (n[1] or n[2] or not n[7]))
            tables[1, code] = not (n[4] and (n[5] or n[6] or not n[3]))
    return tables[0], tables[1]


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a bool mask `(H, W)` to lines one pixel wide; the result has the same shape and type.

    Only set pixels are visited, and after the first two turns only those next to a removed one.
    """
    height, width = mask.shape
    stride = width + 2
    image = np.zeros((height + 2, stride), np.uint8)
    image[1:-1, 1:-1] = mask
    flat = image.ravel()
    around = [row * stride + column for row, column in _AROUND]
    candidates = np.flatnonzero(flat)
    removed: list[np.ndarray] = []
    turn = 0
    while True:
        code = np.zeros(len(candidates), np.uint8)
        for bit, shift in enumerate(around):
            code |= flat[candidates + shift] << np.uint8(bit)
        leaving = candidates[_deletable()[turn % 2][code]]
        flat[leaving] = 0
        removed.append(leaving)
        turn += 1
        if turn == 1:
            candidates = candidates[flat[candidates] > 0]
            continue
        # A pixel stays if its neighbourhood has not changed since the last turn of the same kind.
        recent = np.concatenate(removed[-2:])
        if not len(recent):
            return image[1:-1, 1:-1].astype(bool)
        near = np.concatenate([recent + shift for shift in around])
        candidates = np.unique(near[flat[near] > 0])
