"""Layers that take their weights from a file by name, and remember which names were read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

EPSILON = 1e-5


class Weights:
    """The tensors of one file.

    Attributes:
        names: Every name that a layer has read so far.
    """

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors, self.dtype = tensors, dtype
        self.names: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return self.tensors[name].to(self.dtype)

    def count(self, prefix: str) -> int:
        """Return how many of `prefix.0.`, `prefix.1.`, ... the file has."""
        return count(self.tensors, prefix)

    def conv(self, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        """Convolve `(N, C, h, w)`; an odd kernel is padded so that stride 1 keeps the size."""
        weight = self[f"{name}.weight"]
        bias = self[f"{name}.bias"] if f"{name}.bias" in self else None
        padding = dilation * (weight.shape[-1] // 2) if weight.shape[-1] % 2 else 0
        return torch.conv2d(x, weight, bias, stride, padding, dilation)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Apply a linear layer to the last axis."""
        x = x @ self[f"{name}.weight"].T
        return x + self[f"{name}.bias"] if f"{name}.bias" in self else x

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise `(N, C, h, w)` by the running statistics."""
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (self[f"{name}.{key}"].view(1, -1, 1, 1) for key in keys)
        return (x - mean) / (variance + EPSILON).sqrt() * scale + shift

    def layer_norm(self, name: str, x: Tensor, epsilon: float = EPSILON) -> Tensor:
        """Normalise the last axis; a norm that the file does not have scales by one."""
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
        if f"{name}.weight" not in self:
            return x
        return x * self[f"{name}.weight"] + self[f"{name}.bias"]


def count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many of `prefix.0.`, `prefix.1.`, ... start a name."""
    numbers = {
        int(number)
        for key in tensors
        if key.startswith(f"{prefix}.")
        and (number := key[len(prefix) + 1 :].partition(".")[0]).isdigit()
    }
    return len(numbers)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def residual(weights: Weights, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Apply a residual block of two convolutions, or of three (a bottleneck).

    The stride, or the dilation, is that of the first 3x3 convolution.
    """
    branches = [index for index in (1, 2, 3) if f"{name}.conv{index}.weight" in weights]
    first = 2 if len(branches) == 3 else 1
    y = x
    for index in branches:
        step = stride if index == first else 1
        wide = dilation if index == first else 1
        y = weights.batch_norm(
            f"{name}.bn{index}", weights.conv(f"{name}.conv{index}", y, step, wide)
        )
        if index != branches[-1]:
            y = y.relu()
    if f"{name}.downsample.0.weight" in weights:
        x = weights.conv(f"{name}.downsample.0", x, stride)
        x = weights.batch_norm(f"{name}.downsample.1", x)
    return (x + y).relu()
