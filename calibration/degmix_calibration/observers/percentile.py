"""The magnitude that 99.99 % of the values do not exceed."""

import numpy as np

from degmix_calibration.histogram import Histogram

SHARE = 0.9999


def amax(histogram: Histogram) -> float:
    """Return the magnitude that a share of `SHARE` of all values does not exceed."""
    total = np.cumsum(histogram.counts)
    index = int(np.searchsorted(total, SHARE * total[-1]))
    return min(float(histogram.edges[index + 1]), histogram.largest)
