"""Mean absolute error, for outputs that have no metric of their own."""

from __future__ import annotations

import numpy as np

from degmix_edge.metrics import _base


class Metric(_base.Metric):
    """Mean absolute difference over all numbers of the data set, in the unit of the task.

    A target that is not finite is not valid. A NaN prediction of a valid target makes the result
    nan.
    """

    name = "mean_error"
    title = "Mean error"
    unit = ""
    higher_is_better = False
    counts = ("error_sum", "count")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.error_sum, self.count = 0.0, 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        target = np.asarray(target, np.float64)
        valid = np.isfinite(target)
        self.error_sum += float(np.abs(prediction[valid].astype(np.float64) - target[valid]).sum())
        self.count += int(valid.sum())

    def compute(self) -> float:
        """Mean absolute error; nan when no valid number was seen."""
        return self.error_sum / self.count if self.count else float("nan")
