"""A histogram of magnitudes whose range grows with what it sees, and whose memory does not."""

from __future__ import annotations

import numpy as np

BINS = 2048


class Histogram:
    """Counts of `|x|` in `BINS` equal bins, with the exact extremes beside them."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.low, self.high = np.inf, -np.inf

    @property
    def largest(self) -> float:
        """The largest magnitude seen; 0 before the first value."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def edges(self) -> np.ndarray:
        """`BINS + 1` bin edges, from 0."""
        return np.linspace(0, self.limit or 1.0, BINS + 1)

    def update(self, values: np.ndarray) -> None:
        """Add all of `values`; they must be finite."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self._grow(self.largest)
        counts, _ = np.histogram(np.abs(values), bins=BINS, range=(0, self.limit or 1.0))
        self.counts += counts

    def _grow(self, largest: float) -> None:
        """Double the range until `largest` fits; two old bins become one."""
        if self.limit == 0:
            self.limit = largest
        while 0 < self.limit < largest:
            self.counts = np.concatenate(
                (self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64))
            )
            self.limit *= 2
