"""The magnitude with the smallest expected square error of rounding and clipping."""

import numpy as np

from degmix_calibration.histogram import Histogram
from degmix_edge.quant.qparams import LEVELS

CANDIDATES = 100


def amax(histogram: Histogram) -> float:
    """Return the magnitude with the smallest error, or 0 if only zeros were observed."""
    if histogram.largest == 0:
        return 0.0
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    candidates = histogram.largest * np.linspace(1, 0.2, CANDIDATES)
    scales = candidates[:, None] / LEVELS
    errors = centres - np.clip(np.rint(centres / scales), 0, LEVELS) * scales
    losses = np.sum(histogram.counts * errors * errors, axis=1)
    return float(candidates[np.argmin(losses)])  # of equal ones the largest
