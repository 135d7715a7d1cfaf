"""How far a network's confidence is from how often it is right."""

from __future__ import annotations

import numpy as np

from degmix_edge.errors import ShapeError
from degmix_edge.metrics import _base

BINS = 15


class Metric(_base.Metric):
    """Expected calibration error of 15 bins of confidence of equal width, in percent.

    Guo et al. 2017, On Calibration of Modern Neural Networks, section 2. A pixel's confidence is
    the probability of the class that the network chose. Each bin has a distance between its mean
    confidence and its share of right pixels. The error is the mean of these distances, weighted by
    the bins' pixels, which are pooled over the data set.

    A prediction is `(..., H, W, 2)`, the index of the chosen class and its probability, for a
    target `(..., H, W)`. Or it is `(..., H, W)`, the probability of the positive class, which is
    chosen from 0.5 on; its target is binary. Pixels whose target is 255, or 65535 where there are
    more than 255 classes, do not count. A NaN confidence makes the result nan.
    """

    name = "ece"
    title = "Calibration error"
    unit = "%"
    higher_is_better = False
    whole = 100.0
    counts = ("pixels", "correct", "confidence_sum")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.pixels = np.zeros(BINS, np.int64)
        self.correct = np.zeros(BINS, np.int64)
        self.confidence_sum = np.zeros(BINS, np.float64)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count one map or a batch, as the class describes them.

        Raises:
            ShapeError: The shapes do not belong together.
        """
        if prediction.shape not in (target.shape, (*target.shape, 2)):
            raise ShapeError(
                f"ece: got a prediction of shape {prediction.shape} and a target of shape "
                f"{target.shape}, expected the target's shape, or a last axis of 2 beside it: the "
                "class and its probability"
            )
        self._add(prediction, target)

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        if prediction.ndim > target.ndim:
            valid = target != _base.ignored(self.num_channels)
            confidence = prediction[valid, 1].astype(np.float64)
            right = prediction[valid, 0] == target[valid]
        else:
            positive, valid = _base.binary(target)
            probability = prediction[valid].astype(np.float64)
            confidence = np.maximum(probability, 1 - probability)
            right = (probability >= 0.5) == positive[valid]
        # A bin is open below and closed above; a NaN is in the first one, whose sum it spoils.
        bins = np.clip(np.nan_to_num(np.ceil(confidence * BINS)) - 1, 0, BINS - 1).astype(np.int64)
        self.pixels += np.bincount(bins, minlength=BINS)
        self.correct += np.bincount(bins, right, BINS).astype(np.int64)
        self.confidence_sum += np.bincount(bins, confidence, BINS)

    def compute(self) -> float:
        """Error in percent, 0 to 100; nan when no valid pixel was seen."""
        total = self.pixels.sum()
        if not total:
            return float("nan")
        return float(100 * np.abs(self.correct - self.confidence_sum).sum() / total)
