"""Symmetric INT8: zero point 0, scale = amax / 127, as TensorRT wants it."""

from __future__ import annotations

import numpy as np

LEVELS = 127
TINY = 1e-8
"""Smallest amax: a tensor that is always zero still needs a positive scale."""


def scale_of(amax: float | np.ndarray) -> np.ndarray:
    """Scale that maps `amax` to 127, float32."""
    return (np.maximum(np.asarray(amax, np.float64), TINY) / LEVELS).astype(np.float32)


def quantize(values: np.ndarray, scale: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Round half to even and clip to [-127, 127], int8. `scale` is per tensor or along `axis`."""
    if axis is not None:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    return np.asarray(np.clip(np.rint(values / scale), -LEVELS, LEVELS), np.int8)


def per_channel_scale(weight: np.ndarray, axis: int) -> np.ndarray:
    """One scale for every index along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return scale_of(np.abs(weight).max(axis=others))
