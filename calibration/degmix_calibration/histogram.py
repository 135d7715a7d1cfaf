"""A histogram of magnitudes whose range grows with the values, in constant memory."""

from __future__ import annotations

import numpy as np

BINS = 2048


class Histogram:
    """Counts of `|x|` in `BINS` equal bins, and the exact extremes of x."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.low, self.high = np.inf, -np.inf

    @property
    def largest(self) -> float:
        """The largest magnitude so far; 0 before the first value."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def edges(self) -> np.ndarray:
        """The `BINS + 1` bin edges, starting at 0."""
        return np.linspace(0, self.limit or 1.0, BINS + 1)

    def update(self, values: np.ndarray) -> None:
        """Add all of `values`, which must be finite."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self._grow(self.largest)
        counts, _ = np.histogram(np.abs(values), bins=BINS, range=(0, self.limit or 1.0))
        self.counts += counts

    def _grow(self, largest: float) -> None:
        """Double the range until `largest` fits, merging two old bins into one each time."""
        if self.limit == 0:
            self.limit = largest
        while 0 < self.limit < largest:
            self.counts = np.concatenate(
                (self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64))
            )
            self.limit *= 2
