"""Symmetric INT8 as TensorRT requires it: zero point 0, scale = amax / 127."""

from __future__ import annotations

import numpy as np

LEVELS = 127
SMALLEST = float(np.finfo(np.float16).tiny)
"""Smallest scale, 6.1e-5; even a tensor that is always zero needs a positive scale."""


def scale_of(amax: float | np.ndarray) -> np.ndarray:
    """Return the scale that maps `amax` to 127, as a float32 that FP16 represents exactly.

    If the float part of a graph becomes FP16, the scales of its Q/DQ nodes become FP16 too, and the
    grid stays the same. The rounding changes a scale by at most 0.05 %.
    """
    scale = np.asarray(amax, np.float64) / LEVELS
    return np.clip(scale, SMALLEST, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)


def quantize(values: np.ndarray, scale: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Round half to even and clip to [-127, 127], int8. `scale` is per tensor or along `axis`."""
    if axis is not None:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    return np.asarray(np.clip(np.rint(values / scale), -LEVELS, LEVELS), np.int8)


def per_channel_scale(weight: np.ndarray, axis: int) -> np.ndarray:
    """Return one scale for each index of `weight` along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return scale_of(np.abs(weight).max(axis=others))
