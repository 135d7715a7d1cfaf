"""End-point error of vectors, such as optical flow."""

from __future__ import annotations

import numpy as np

from degmix_edge.metrics import _base


class Metric(_base.Metric):
    """Mean length of the difference of predicted and true vectors over the data set.

    Otte and Nagel 1994, Optical Flow Estimation: Advances and Comparisons; the Middlebury, Sintel
    and KITTI benchmarks call it EPE. A target with a component that is not finite is not valid. A
    NaN prediction at a valid pixel makes the result nan.
    """

    name = "epe"
    title = "End-point error"
    unit = "px"
    higher_is_better = False
    counts = ("length_sum", "count")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.length_sum, self.count = 0.0, 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        valid = np.isfinite(target).all(-1)
        difference = prediction[valid].astype(np.float64) - target[valid]
        self.length_sum += float(np.linalg.norm(difference, axis=-1).sum())
        self.count += len(difference)

    def compute(self) -> float:
        """Mean end-point error in pixels; nan when no valid pixel was seen."""
        return self.length_sum / self.count if self.count else float("nan")
