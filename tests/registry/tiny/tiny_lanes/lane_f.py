"""F-measure of marked pixels."""

from __future__ import annotations

import numpy as np

from degmix_edge import metrics


class Metric(metrics.Metric):
    """Harmonic mean of precision and recall of all classes but the background, in percent."""

    name = "lane_f"
    title = "Lane F"
    unit = "%"
    higher_is_better = True

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.hits = self.predicted = self.labelled = 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        valid = target != 255
        self.hits += int(np.sum((prediction == target) & (target > 0) & valid))
        self.predicted += int(np.sum((prediction > 0) & valid))
        self.labelled += int(np.sum((target > 0) & valid))

    def compute(self) -> float:
        """F in percent; nan when nothing was marked in either map."""
        total = self.predicted + self.labelled
        return 200 * self.hits / total if total else float("nan")
