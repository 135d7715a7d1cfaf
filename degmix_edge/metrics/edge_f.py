"""F-measure of boundaries within a tolerance."""

from __future__ import annotations

import math

import numpy as np

from degmix_edge.metrics import _base

THRESHOLD = 0.5
TOLERANCE = 0.0075
"""Share of the image's diagonal that a boundary may be off: the published one of PASCAL."""


class Metric(_base.Metric):
    """F1 of boundary pixels at the fixed threshold 0.5, in percent.

    Precision is the share of predicted pixels within the tolerance of a true one, recall the share
    of true pixels within the tolerance of a predicted one; the tolerance is 0.0075 of the image's
    diagonal, at least 1 pixel, measured centre to centre. Counts are pooled over the data set.

    **This is not odsF** (Martin, Fowlkes and Malik 2004), and its numbers stand in no published
    table: no non-maximum suppression, no thinning, no one-to-one matching of pixels, and one
    threshold instead of the best of many. Many predicted pixels may match one true pixel, so thick
    lines cost less here. It costs milliseconds an image where odsF costs seconds, and it falls when
    a network's boundaries get worse, which is what a comparison needs.

    The target is binary, 255 is ignored in both maps; a target of probabilities (another network's
    map, where there are no labels) is cut at 0.5. A NaN predicts nothing. No boundary in either map
    is full agreement, 100; in one of them only, 0.
    """

    name = "edge_f"
    title = "Boundary F"
    unit = "%"
    higher_is_better = True
    counts = ("valid", "predicted", "true", "predicted_hit", "true_hit")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.valid = self.predicted = self.true = self.predicted_hit = self.true_hit = 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        true, valid = _base.binary(target)
        predicted = valid & (prediction >= THRESHOLD)
        radius = max(1.0, TOLERANCE * math.hypot(*target.shape[-2:]))
        self.valid += int(np.count_nonzero(valid))
        self.predicted += int(np.count_nonzero(predicted))
        self.true += int(np.count_nonzero(true))
        self.predicted_hit += int(np.count_nonzero(predicted & dilate(true, radius)))
        self.true_hit += int(np.count_nonzero(true & dilate(predicted, radius)))

    def compute(self) -> float:
        """F1 in percent, 0 to 100; nan when no valid pixel was seen."""
        if not self.valid:
            return float("nan")
        if not self.predicted and not self.true:
            return 100.0
        precision = self.predicted_hit / max(self.predicted, 1)
        recall = self.true_hit / max(self.true, 1)
        return _base.f_measure(precision, recall)


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels of `(..., H, W)` whose distance to a True pixel is at most `radius` pixels."""
    reach = int(radius)
    height, width = mask.shape[-2:]
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(reach, reach)] * 2)
    out = np.zeros_like(mask)
    # From the disc's top row to its middle rows only get wider, so one row dilation grows along:
    # 4 * radius passes over the map instead of the disc's pi * radius^2.
    wide, half = padded[..., reach : reach + width].copy(), 0
    for dy in range(reach, -1, -1):
        while (half + 1) ** 2 + dy**2 <= radius**2:
            half += 1
            wide |= padded[..., reach - half :][..., :width]
            wide |= padded[..., reach + half :][..., :width]
        out |= wide[..., reach - dy :, :][..., :height, :]
        out |= wide[..., reach + dy :, :][..., :height, :]
    return out
