"""The magnitude whose clipped and quantized distribution is nearest to the measured one.

It has the smallest Kullback-Leibler divergence of all candidates, as in TensorRT's entropy
calibration (Migacz, "8-bit Inference with TensorRT", GTC 2017). Values beyond a candidate count in
its last bin. The quantized distribution spreads each level's count over its non-empty bins.
"""

import numpy as np

from degmix_calibration.histogram import Histogram

LEVELS = 128
STEP = 16
"""Number of bins between two candidates."""


def amax(histogram: Histogram) -> float:
    """Return the magnitude with the smallest divergence, or 0 if only zeros were observed."""
    counts = histogram.counts.astype(np.float64)
    if histogram.largest == 0:
        return 0.0
    # Zero is exact on every grid; the many zeros behind a Relu would outweigh all other values.
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    candidates = range(min(LEVELS, last), last + 1, STEP)
    divergences = [_divergence(counts, size) for size in candidates]
    best = candidates[int(np.argmin(divergences))]
    if best + STEP > last:
        return histogram.largest
    return min(float(histogram.edges[best]), histogram.largest)


def _divergence(counts: np.ndarray, size: int) -> float:
    """Return the Kullback-Leibler divergence of clipping to `size` bins and quantizing them.

    The quantized distribution has `LEVELS` levels. The reference counts all larger values in its
    last bin.
    """
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
    # Clipped values in a bin that is empty itself give an infinite divergence: use a large one.
    q = np.where((p > 0) & (q == 0), 1e-9, q)
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))
