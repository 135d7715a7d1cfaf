"""Largest F-measure of saliency over all thresholds."""

from __future__ import annotations

import numpy as np

from degmix_edge.metrics import _base

BETA2 = 0.3
"""Weight of recall: precision counts more (Achanta et al. 2009, section 4)."""
THRESHOLDS = (np.arange(1, 20) / 20).astype(np.float32)
"""0.05, 0.10, ... 0.95; float32 as the maps are, so that 0.35 reaches the threshold 0.35."""


class Metric(_base.Metric):
    """F-measure with beta^2 = 0.3 at the best of 19 thresholds, in percent.

    Counts are pooled over the data set before the best threshold is taken, as the ATRC code does; a
    mean of the images' own F is another number. A pixel is predicted from the threshold on; a NaN
    predicts nothing. The target is binary, 255 is ignored; a target of probabilities (another
    network's map, where there are no labels) is cut at 0.5. No positive pixel in either map is full
    agreement, 100; in one of them only, 0.
    """

    name = "max_f"
    title = "Max F"
    unit = "%"
    higher_is_better = True
    counts = ("hit", "predicted", "positive", "valid")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.hit = np.zeros(len(THRESHOLDS), np.int64)
        self.predicted = np.zeros(len(THRESHOLDS), np.int64)
        self.positive, self.valid = 0, 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        positive, valid = _base.binary(target)
        all_valid = prediction[valid].astype(np.float32)
        on_target = prediction[positive].astype(np.float32)
        self.predicted += [np.count_nonzero(all_valid >= t) for t in THRESHOLDS]
        self.hit += [np.count_nonzero(on_target >= t) for t in THRESHOLDS]
        self.positive += on_target.size
        self.valid += all_valid.size

    def compute(self) -> float:
        """Best F in percent, 0 to 100; nan when no valid pixel was seen."""
        if not self.valid:
            return float("nan")
        if not self.positive:
            return 0.0 if self.predicted.min() else 100.0
        precision = self.hit / np.maximum(self.predicted, 1)
        recall = self.hit / self.positive
        pairs = zip(precision, recall, strict=True)
        return float(max(_base.f_measure(p, r, BETA2) for p, r in pairs))
