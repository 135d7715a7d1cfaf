"""The cost of a network: its parameters and the multiply-adds of one image."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds (MACs) of one image; `macs_of` has those of each part."""

    params: int
    macs: int
    macs_of: dict[str, int]


def count(network: nn.Module, height: int, width: int) -> Cost:
    """Count the convolutions, matrix products, attentions and deformable convolutions.

    A deformable convolution counts like a convolution of the same shape, without the four products
    of each bilinear sample. Resizes, norms and activations count as zero. The network runs on the
    meta device, which needs no memory and does no arithmetic.
    """
    network = copy.deepcopy(network).eval().to("meta")
    custom = {torch.ops.torchvision.deform_conv2d: _deform_conv_flops}
    counter = FlopCounterMode(display=False, custom_mapping=custom)
    with counter, torch.no_grad():
        network(torch.zeros(1, 3, height, width, device="meta"))
    by_module = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    root = type(network).__name__
    return Cost(
        params=sum(p.numel() for p in network.parameters()),
        macs=counter.get_total_flops() // 2,
        macs_of={
            name: _macs(by_module, f"{root}.{name}", part)
            for name, part in network.named_children()
            if any(True for _ in part.parameters())
        },
    )


def _macs(by_module: dict[str, int], name: str, module: nn.Module) -> int:
    """Return a module's multiply-adds; for a container that is never called, its parts' sum."""
    if name in by_module:
        return by_module[name]
    return sum(_macs(by_module, f"{name}.{child}", part) for child, part in module.named_children())


def _deform_conv_flops(value: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Return two operations for every weight that contributes to each output."""
    n, outputs, height, width = out_shape
    per_output = weight[1] * weight[2] * weight[3]
    return int(2 * n * outputs * height * width * per_output)
