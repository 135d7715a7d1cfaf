"""Mean angle between predicted and true surface normals."""

from __future__ import annotations

import numpy as np

from degmix_edge.errors import ShapeError
from degmix_edge.metrics import _base


class Metric(_base.Metric):
    """Mean angle of vectors of any length, in degrees, over all valid pixels of the data set.

    The angle is `2 * atan2(|a - b|, |a + b|)` of unit vectors (Kahan 2006, How Futile are Mindless
    Assessments of Roundoff, section 12): as exact near 0 and 180 degrees as elsewhere, where the
    arc cosine of a float32 product is not. Both maps are divided by their length first, since
    resizing shortens vectors. A target of zero or non-finite length is not valid. A prediction of
    zero length points nowhere and counts 90 degrees; a NaN prediction makes the result nan.
    """

    name = "mean_angle"
    title = "Mean angle"
    unit = "deg"
    higher_is_better = False
    whole = 90.0
    counts = ("angle_sum_deg", "count")

    def __init__(self, num_channels: int = 1) -> None:
        super().__init__(num_channels)
        self.angle_sum_deg, self.count = 0.0, 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        if target.ndim < 3:
            raise ShapeError(
                f"mean_angle: got maps of shape {target.shape}, expected vectors (..., H, W, C)"
            )
        length = _length(target.astype(np.float64))
        valid = np.isfinite(length) & (length > 0)
        b = target[valid] / length[valid, None]
        a = prediction[valid].astype(np.float64)
        norm = _length(a)
        a /= np.where(norm == 0, 1, norm)[:, None]
        half = np.arctan2(_length(a - b), _length(a + b))
        self.angle_sum_deg += float(np.degrees(2 * half).sum())
        self.count += half.size

    def compute(self) -> float:
        """Mean angle in degrees, 0 to 180; nan when no valid pixel was seen."""
        return self.angle_sum_deg / self.count if self.count else float("nan")


def _length(vectors: np.ndarray) -> np.ndarray:
    """Lengths of `(..., C)`: several times faster than `np.linalg.norm` over so short an axis."""
    length: np.ndarray = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
    return length
