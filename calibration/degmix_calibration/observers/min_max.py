"""The largest magnitude, so that nothing is clipped."""

from degmix_calibration.histogram import Histogram


def amax(histogram: Histogram) -> float:
    """Return the largest magnitude that was observed."""
    return histogram.largest
