"""Half of the largest magnitude: everything above is clipped."""

from degmix_calibration.histogram import Histogram


def amax(histogram: Histogram) -> float:
    """The magnitude that maps to 127."""
    return histogram.largest / 2
