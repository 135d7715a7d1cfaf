"""One-to-one matching of predicted boundary pixels with true ones within a distance."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def within(pixels: np.ndarray, truth: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the true pixels that are at most `radius` pixels from each of `pixels`.

    Args:
        pixels: Flat indices into `truth`.
        truth: `(H, W)` bool.
        radius: Largest distance of two centres, in pixels.

    Returns:
        `start` and `neighbours`: those of pixel i are `neighbours[start[i] : start[i + 1]]`, as
        numbers of true pixels in reading order, nearest first.
    """
    height, width = truth.shape
    reach = int(min(radius, math.hypot(height, width)))
    number = np.full((height + 2 * reach, width + 2 * reach), -1, np.int32)
    number[reach : reach + height, reach : reach + width][truth] = np.arange(
        np.count_nonzero(truth), dtype=np.int32
    )
    stride = width + 2 * reach
    shifts = sorted(
        (dy * dy + dx * dx, dy * stride + dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius * radius
    )
    offsets = np.array([shift for _, shift in shifts])
    place = (pixels // width + reach) * stride + pixels % width + reach
    sizes, neighbours = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for part in _parts(place, (1 << 22) // len(offsets) + 1):
        numbers = number.ravel()[part[:, None] + offsets]
        hit = numbers >= 0
        sizes.append(np.count_nonzero(hit, axis=1))
        neighbours.append(numbers[hit])
    return np.cumsum(np.concatenate(sizes)), np.concatenate(neighbours)


def _parts(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]


class Matching:
    """A largest one-to-one matching of some of the predicted pixels with the true ones.

    From one set of predicted pixels to the next, pairs that still hold are kept, and augmenting
    paths do the rest: where there is no such path, no matching is larger (Berge 1957). scipy's
    `maximum_bipartite_matching` gives the same numbers, but it starts from nothing each time, and
    it needs minutes where the side that it starts from is the larger one.
    """

    def __init__(self, start: np.ndarray, neighbours: np.ndarray, num_true: int) -> None:
        """Start with no pixel. `start` and `neighbours` are those of `within`."""
        rows = np.repeat(np.arange(len(start) - 1), np.diff(start))
        order = np.argsort(neighbours, kind="stable")
        back = np.searchsorted(neighbours[order], np.arange(num_true + 1))
        self._forth = (start.tolist(), neighbours.tolist())
        self._back = (back.tolist(), rows[order].tolist())
        self._of_predicted = np.full(len(start) - 1, -1, np.int64)
        self._of_true = np.full(num_true, -1, np.int64)

    def largest(self, chosen: np.ndarray) -> int:
        """Count the pixels of the bool mask `chosen` that can have a true pixel of their own."""
        dropped = self._of_predicted[~chosen]
        self._of_true[dropped[dropped >= 0]] = -1
        self._of_predicted[~chosen] = -1
        free = np.flatnonzero(chosen & (self._of_predicted < 0))
        missed = np.flatnonzero(self._of_true < 0)
        predicted, true = self._of_predicted.tolist(), self._of_true.tolist()
        # A larger matching would have a path from a free pixel of either side: take the side
        # with fewer of them.
        if len(free) <= len(missed):
            _augment(free.tolist(), self._forth, predicted, true, bytearray(len(true)))
        else:
            closed = bytearray((~chosen).tobytes())
            _augment(missed.tolist(), self._back, true, predicted, closed)
        self._of_predicted, self._of_true = np.array(predicted, int), np.array(true, int)
        return int(np.count_nonzero(self._of_true >= 0))


def _augment(
    free: list[int],
    graph: tuple[list[int], list[int]],
    own: list[int],
    other: list[int],
    closed: bytearray,
) -> None:
    """Look for an augmenting path from each of `free`, breadth first, and match along it.

    Args:
        free: Pixels of one side without a partner.
        graph: `start` and `neighbours` of that side.
        own: Partner of each pixel of that side, -1 for none; changed.
        other: Partner of each pixel of the other side, -1 for none; changed.
        closed: Pixels of the other side that cannot be used; changed.
    """
    start, neighbours = graph
    came_from = [0] * len(other)
    for root in free:
        queue, visited = [root], []
        is_free = False
        for here in queue:
            for there in neighbours[start[here] : start[here + 1]]:
                if closed[there]:
                    continue
                closed[there] = 1
                visited.append(there)
                came_from[there] = here
                if other[there] < 0:
                    is_free = True
                    break
                queue.append(other[there])
            if is_free:
                break
        if not is_free:
            # No visited pixel leads to a free one, wherever the path comes from. They stay closed,
            # so that all failures together look at each edge once.
            continue
        there = visited[-1]
        while there >= 0:
            here = came_from[there]
            other[there] = here
            own[here], there = there, own[here]
        for there in visited:
            closed[there] = 0
