"""Symmetric quantization as TensorRT requires it: zero point 0, scale = amax / 127 for INT8.

FP8 is E4M3 without infinities, whose largest value is 448: Micikevicius et al., "FP8 Formats for
Deep Learning" (arXiv 2209.05433).
"""

from __future__ import annotations

import numpy as np

LEVELS = 127
FP8_LARGEST = 448
FP8_SUFFIX = ".weight/fp8"
"""How the names of tensors of FP8 weights end."""
SMALLEST = float(np.finfo(np.float16).tiny)
"""Smallest scale, 6.1e-5; even a tensor that is always zero needs a positive scale."""


def scale_of(amax: float | np.ndarray, largest: int = LEVELS) -> np.ndarray:
    """Return the scale that maps `amax` to `largest`, as a float32 that FP16 represents exactly.

    If the float part of a graph becomes FP16, the scales of its Q/DQ nodes become FP16 too, and the
    grid stays the same. The rounding changes a scale by at most 0.05 %.
    """
    scale = np.asarray(amax, np.float64) / largest
    return np.clip(scale, SMALLEST, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)


def quantize(values: np.ndarray, scale: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Round half to even and clip to [-127, 127], int8. `scale` is per tensor or along `axis`."""
    steps = values / _along(scale, values, axis)
    return np.asarray(np.clip(np.rint(steps), -LEVELS, LEVELS), np.int8)


def quantize_fp8(values: np.ndarray, scale: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Clip to [-448, 448] and round to E4M3, as `quantize` does to INT8."""
    steps = values / _along(scale, values, axis)
    return np.asarray(np.clip(steps, -FP8_LARGEST, FP8_LARGEST), fp8_type())


def fp8_type() -> np.dtype:
    """Return numpy's E4M3, which comes with onnx."""
    import ml_dtypes

    kind: np.dtype = np.dtype(ml_dtypes.float8_e4m3fn)
    return kind


def _along(scale: np.ndarray, values: np.ndarray, axis: int | None) -> np.ndarray:
    if axis is None:
        return scale
    shape = [1] * values.ndim
    shape[axis] = -1
    return scale.reshape(shape)


def per_channel_scale(weight: np.ndarray, axis: int, largest: int = LEVELS) -> np.ndarray:
    """Return one scale for each index of `weight` along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return scale_of(np.abs(weight).max(axis=others), largest)
