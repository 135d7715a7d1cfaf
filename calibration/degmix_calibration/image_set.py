"""Which images to calibrate with: a few that are as different as the whole set.

A robot's folder holds thousands of frames, most of them alike. Chosen are those whose thumbnails
lie farthest apart in brightness, contrast, colour and sharpness (Gonzalez 1985, farthest-first
traversal), so that night and day are both there. The same folder gives the same choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

SIDE = 32


def digest(image: np.ndarray) -> str:
    """SHA-256 of the pixels and their shape."""
    whole = hashlib.sha256(str(image.shape).encode())
    whole.update(np.ascontiguousarray(image).tobytes())
    return whole.hexdigest()


def features(image: np.ndarray) -> np.ndarray:
    """Of an image `(H, W, 3)` uint8: means and spreads of colours, contrast, sharpness; 8."""
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE)), np.float64) / 255
    grey = small.mean(-1)
    sharp = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    return np.array([*small.mean((0, 1)), *small.std((0, 1)), grey.std(), sharp])


def choose(
    images: Sequence[Callable[[], np.ndarray]],
    count: int,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[list[int], int]:
    """Indices of `count` different images, in order, and how many duplicates there were.

    Args:
        images: Read one image each, uint8 `(H, W, 3)`; one is in memory at a time.
        count: Of the images to choose.
        advance: Called with 1 after each image.
    """
    seen: set[str] = set()
    kept: list[int] = []
    found: list[np.ndarray] = []
    for index, read in enumerate(images):
        image = read()
        key = digest(image)
        advance(1)
        if key in seen:
            continue
        seen.add(key)
        kept.append(index)
        found.append(features(image))
    duplicates = len(images) - len(kept)
    if len(kept) <= count:
        return kept, duplicates
    points = np.stack(found)
    points = (points - points.mean(0)) / (points.std(0) + 1e-9)
    # The first is the most usual one; each further one is the farthest from all before it.
    order = [int(np.argmin((points**2).sum(1)))]
    distance = ((points - points[order[0]]) ** 2).sum(1)
    while len(order) < count:
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((points - points[order[-1]]) ** 2).sum(1))
    return sorted(kept[i] for i in order), duplicates
