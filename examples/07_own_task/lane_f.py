"""F-measure of marked pixels, in percent."""

import numpy as np

from degmix_edge import metrics


class Metric(metrics.Metric):
    """Harmonic mean of precision and recall of every class but the background."""

    name, title, unit, higher_is_better = "lane_f", "Lane F", "%", True

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.hits = self.marked = 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        self.hits += int(np.sum((prediction == target) & (target > 0)))
        self.marked += int(np.sum(prediction > 0)) + int(np.sum(target > 0))

    def compute(self) -> float:
        """F in percent; nan when nothing was marked in either map."""
        return 200 * self.hits / self.marked if self.marked else float("nan")
