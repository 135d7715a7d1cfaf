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
    best, least = histogram.largest, np.inf
    for share in np.linspace(1, 0.2, CANDIDATES):
        scale = histogram.largest * share / LEVELS
        error = centres - np.clip(np.rint(centres / scale), 0, LEVELS) * scale
        loss = float(np.sum(histogram.counts * error * error))
        if loss < least:
            best, least = histogram.largest * share, loss
    return float(best)
