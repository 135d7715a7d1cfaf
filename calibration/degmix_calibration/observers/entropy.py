"""The magnitude whose clipped and quantized distribution is nearest to the measured one.

Least Kullback-Leibler divergence over candidate magnitudes, as TensorRT's entropy calibration did:
Migacz, "8-bit Inference with TensorRT", GTC 2017. What lies beyond a candidate counts in its last
bin; the quantized distribution spreads each level's count over the bins in it that are not empty.
"""

import numpy as np

from degmix_calibration.histogram import Histogram

LEVELS = 128
STEP = 16
"""Bins between two candidates."""


def amax(histogram: Histogram) -> float:
    """See the module."""
    counts = histogram.counts.astype(np.float64)
    if histogram.largest == 0:
        return 0.0
    # Zeros are on every grid; as many as a Relu makes, they would outvote the rest.
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    candidates = range(min(LEVELS, last), last + 1, STEP)
    divergences = [_divergence(counts, size) for size in candidates]
    best = candidates[int(np.argmin(divergences))]
    if best + STEP > last:
        return histogram.largest
    return min(float(histogram.edges[best]), histogram.largest)


def _divergence(counts: np.ndarray, size: int) -> float:
    """Of the first `size` bins in `LEVELS` levels from the same with the rest in the last bin."""
    reference = counts[:size].copy()
    reference[-1] += counts[size:].sum()
    inside = counts[:size]
    starts = np.floor(np.arange(LEVELS) * size / LEVELS).astype(int)
    starts = np.unique(starts)
    totals = np.add.reduceat(inside, starts)
    filled = np.add.reduceat((inside > 0).astype(np.float64), starts)
    widths = np.diff(np.append(starts, size))
    level = np.repeat(
        np.divide(totals, filled, out=np.zeros_like(totals), where=filled > 0), widths
    )
    quantized = np.where(inside > 0, level, 0.0)
    if not quantized.sum() or not reference.sum():
        return float("inf")
    p, q = reference / reference.sum(), quantized / quantized.sum()
    # Clipped mass in a bin that is empty itself has no finite divergence: take a large one.
    q = np.where((p > 0) & (q == 0), 1e-9, q)
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))
