"""Mean intersection over union of classes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from degmix_edge.errors import ConfigError, InputError
from degmix_edge.metrics import _base

ABSENT = ("skip", "zero")


class Metric(_base.Metric):
    """Intersection over union a class, pooled over the data set, then averaged over classes.

    Everingham et al. 2015, The PASCAL VOC Challenge: A Retrospective. Pixels whose target is 255,
    or 65535 where there are more than 255 classes, are ignored in both maps. A class in neither map
    has no IoU: `absent="skip"` leaves it out of the mean. The published figures of this family of
    networks (the ATRC code) count it as 0, which is `absent="zero"`. The two agree as soon as every
    class occurs.
    """

    name = "miou"
    title = "Mean IoU"
    unit = "%"
    higher_is_better = True
    counts = ("confusion",)

    def __init__(self, num_channels: int = 1, *, absent: Literal["skip", "zero"] = "skip") -> None:
        super().__init__(num_channels)
        if absent not in ABSENT:
            raise ConfigError(f"miou: got absent={absent!r}, expected one of {', '.join(ABSENT)}")
        self.absent = absent
        self.confusion = np.zeros((num_channels, num_channels), np.int64)
        """Pixels by target class (row) and predicted class (column)."""

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        valid = target != _base.ignored(self.num_channels)
        rows = self._labels(target[valid], "target")
        columns = self._labels(prediction[valid], "prediction")
        count = np.bincount(rows * self.num_channels + columns, minlength=self.confusion.size)
        self.confusion += count.reshape(self.confusion.shape)

    def _labels(self, labels: np.ndarray, what: str) -> np.ndarray:
        """Class indices as int64.

        Raises:
            InputError: A label is no class, which would otherwise be counted as another one.
        """
        bad = labels[(labels < 0) | (labels >= self.num_channels)]
        if labels.dtype.kind not in "ui" or bad.size:
            got = f"label {bad[0]}" if bad.size else f"{labels.dtype} values"
            ignored = _base.ignored(self.num_channels)
            raise InputError(
                f"miou: {what} has {got}, expected integers 0..{self.num_channels - 1} "
                f"(in targets also {ignored}, ignored); check the data set's classes"
            )
        return labels.astype(np.int64)

    def compute(self) -> float:
        """Mean IoU in percent, 0 to 100; nan when no valid pixel was seen."""
        intersection = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - intersection
        if not union.any():
            return float("nan")
        iou = intersection / np.maximum(union, 1)
        return float(100 * (iou[union > 0] if self.absent == "skip" else iou).mean())
