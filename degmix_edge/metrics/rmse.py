"""Root mean square error of depth."""

from __future__ import annotations

import numpy as np

from degmix_edge.metrics import _base


class Metric(_base.Metric):
    """Square root of the mean square error over all valid pixels of the data set, in metres.

    Eigen et al. 2014, "RMSE (linear)", pooled over pixels as the ATRC code does, not averaged over
    images. Targets of 0 or less, 255 (the padding of published pipelines) and non-finite ones are
    not valid. A NaN prediction at a valid pixel makes the result nan: it is not hidden.
    """

    name = "rmse"
    title = "RMSE"
    unit = "m"
    higher_is_better = False
    counts = ("square_sum", "count")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.square_sum, self.count = 0.0, 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        valid = np.isfinite(target) & (target > 0) & (target != _base.IGNORE)
        error = prediction[valid].astype(np.float64) - target[valid]
        self.square_sum += float(error @ error)
        self.count += error.size

    def compute(self) -> float:
        """RMSE in metres; nan when no valid pixel was seen."""
        return (self.square_sum / self.count) ** 0.5 if self.count else float("nan")
