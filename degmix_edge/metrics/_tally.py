"""A metric's counts image by image: they can be put together, cut into slices, and drawn from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_edge.metrics._base import Metric

LEVEL = 0.95
"""The share of draws that lie inside an interval."""
DRAWS_AT_ONCE = 50
"""Draws whose weights are in memory at once."""

State = Mapping[str, np.ndarray]


class Tally:
    """What a metric has seen of each image, in order.

    The value over all images is that of their states, added in this order. So it does not depend on
    which process counted which image.

    Args:
        metric: An empty metric, whose settings all images share.

    Attributes:
        metric: An empty metric of these settings.
        states: One for each image; None where it has no label.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = copy.copy(metric)
        self._zeros = metric.state()
        self.states: list[State | None] = []

    def add(self, prediction: np.ndarray | None, target: np.ndarray | None) -> None:
        """Count the next image.

        Args:
            prediction: Its map, as `Metric.update` takes it; None where there is no label.
            target: Its label; None where it has none.

        Raises:
            ShapeError: As `Metric.update`.
        """
        if prediction is None or target is None:
            self.states.append(None)
            return
        metric = self._fresh()
        metric.update(prediction, target)
        self.states.append(metric.state())

    def merge(self, other: Tally) -> None:
        """Append the images of another tally of the same metric."""
        self.states += other.states

    def value(self, rows: Sequence[int] | None = None) -> float:
        """Return the metric over some images, by position; None is all. NaN where none counts."""
        metric = self._fresh()
        for row in range(len(self.states)) if rows is None else rows:
            if (state := self.states[row]) is not None:
                metric.merge(state)
        return metric.compute()

    def draws(self, count: int, seed: int = 0, rows: Sequence[int] | None = None) -> np.ndarray:
        """Return the metric of `count` sets of images, each drawn with replacement.

        The sets depend on the seed and the number of images alone, so that the draws of two
        tallies over the same images are pairs.

        Args:
            count: How many sets.
            seed: Seed of the random numbers.
            rows: The images to draw from, by position; None is all.

        Raises:
            ConfigError: `count` is below 1.
        """
        if count < 1:
            raise ConfigError(f"bootstrap: got {count} draws, expected at least 1")
        chosen = list(range(len(self.states)) if rows is None else rows)
        rng = np.random.default_rng(seed)
        table = {
            name: np.stack([self._flat(row, name) for row in chosen or [-1]]).astype(np.float64)
            for name in self._zeros
        }
        values: list[float] = []
        for start in range(0, count, DRAWS_AT_ONCE):
            some = min(DRAWS_AT_ONCE, count - start)
            total = max(1, len(chosen))
            weights = rng.multinomial(total, np.full(total, 1 / total), size=some)
            # In float64, where counts below 2^53 stay exact and products are fast.
            sums = {name: weights.astype(np.float64) @ counts for name, counts in table.items()}
            values += [self._of({n: s[draw] for n, s in sums.items()}) for draw in range(some)]
        return np.array(values)

    def _flat(self, row: int, name: str) -> np.ndarray:
        state = self.states[row] if row >= 0 else None
        return np.ravel(self._zeros[name] if state is None else state[name])

    def _of(self, sums: Mapping[str, np.ndarray]) -> float:
        metric = self._fresh()
        shaped = {name: sums[name].reshape(zero.shape) for name, zero in self._zeros.items()}
        metric.merge({n: v.astype(self._zeros[n].dtype) for n, v in shaped.items()})
        return metric.compute()

    def _fresh(self) -> Metric:
        """An empty metric; every attribute that counts is one of its own."""
        metric = copy.copy(self.metric)
        for name, zero in self._zeros.items():
            setattr(metric, name, zero.copy() if zero.ndim else zero.item())
        return metric


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the bounds that hold the middle `level` of bootstrap draws; NaN draws do not count.

    Efron 1979, Bootstrap Methods: Another Look at the Jackknife; the percentile interval.
    """
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)
