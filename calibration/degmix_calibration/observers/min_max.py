"""The largest magnitude seen: nothing is clipped."""

from degmix_calibration.histogram import Histogram


def amax(histogram: Histogram) -> float:
    """See the module."""
    return histogram.largest
