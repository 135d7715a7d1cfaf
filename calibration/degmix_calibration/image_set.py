"""Choose calibration images: a few that are as different from each other as the whole set.

A robot's folder holds thousands of frames, and most of them are similar. This module chooses those
whose thumbnails are farthest apart in brightness, contrast, colour and sharpness (Gonzalez 1985,
farthest-first traversal), so that the choice has both night and day. The choice is deterministic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

SIDE = 32


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the values and the shapes of one or more arrays."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(str(array.shape).encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def features(image: np.ndarray) -> np.ndarray:
    """Describe an image `(H, W, 3)` uint8 by eight numbers.

    They are the means and standard deviations of its three colours, its contrast and its sharpness.
    """
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
    """Return the indices of `count` different images, in order, and the number of duplicates.

    Args:
        images: Functions that read one image each, uint8 `(H, W, 3)`; only one image is in memory
            at a time.
        count: Number of images to choose.
        advance: Called with 1 after each image.
    """
    digests: set[str] = set()
    unique: list[int] = []
    described: list[np.ndarray] = []
    for index, read in enumerate(images):
        image = read()
        key = digest(image)
        advance(1)
        if key in digests:
            continue
        digests.add(key)
        unique.append(index)
        described.append(features(image))
    duplicates = len(images) - len(unique)
    if len(unique) <= count:
        return unique, duplicates
    points = np.stack(described)
    points = (points - points.mean(0)) / (points.std(0) + 1e-9)
    # The first image is the most typical one; each further one is the farthest from all before it.
    order = [int(np.argmin((points**2).sum(1)))]
    distance = ((points - points[order[0]]) ** 2).sum(1)
    while len(order) < count:
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((points - points[order[-1]]) ** 2).sum(1))
    return sorted(unique[i] for i in order), duplicates
