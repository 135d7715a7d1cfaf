"""HRNet under the names that the authors, timm and mmsegmentation share.

Sun et al., "High-Resolution Representations for Labeling Pixels and Regions" (arXiv 1904.04514). A
coarse branch is enlarged by its factor, bilinear with half-pixel centres, and then resized to the
finer branch, as in mmsegmentation and in the code of the DeMT family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from degmix_training.references._weights import Weights, count, residual

KINDS = {
    (16, 1): "hrnet_w18_small",
    (18, 2): "hrnet_w18_small_v2",
    **{(width, 4): f"hrnet_w{width}" for width in (18, 30, 32, 40, 44, 48, 64)},
}
"""timm's names by channels of the finest branch and blocks of the first stage."""
FIRST = "stage2.0.branches.0.0.conv1.weight"

SIZE = (43, 58)
"""Height and width of the image that a backbone is proved on: odd at every stride."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of an HRNet."""
    return FIRST in tensors and "stage4.0.fuse_layers.0.1.0.weight" in tensors


def kind(tensors: Mapping[str, Tensor]) -> str:
    """Return its timm name, or a description where timm has no such HRNet."""
    width, blocks = tensors[FIRST].shape[0], count(tensors, "layer1")
    other = f"an HRNet of {width} channels with {blocks} blocks in its first stage"
    return KINDS.get((width, blocks), other)


def maps(weights: Weights, image: Tensor, backbone: Any) -> list[Tensor]:
    """Compute the maps at strides 2, 4, 8, 16 and 32 of an image `(N, 3, H, W)`."""
    first = weights.batch_norm("bn1", weights.conv("conv1", image, 2)).relu()
    x = weights.batch_norm("bn2", weights.conv("conv2", first, 2)).relu()
    for block in range(weights.count("layer1")):
        x = residual(weights, f"layer1.{block}", x)
    branches = [x]
    for stage in (2, 3, 4):
        branches = _transition(weights, f"transition{stage - 1}", branches, stage)
        for module in range(weights.count(f"stage{stage}")):
            branches = _module(weights, f"stage{stage}.{module}", branches)
    return [first, *branches]


def _transition(weights: Weights, name: str, branches: list[Tensor], wanted: int) -> list[Tensor]:
    """Give each branch its channels, and start the next coarser branch from the coarsest."""
    result = []
    for index in range(wanted):
        own = index < len(branches)
        x = branches[index] if own else branches[-1]
        if own and f"{name}.{index}.0.weight" in weights:
            conv = weights.conv(f"{name}.{index}.0", x)
            x = weights.batch_norm(f"{name}.{index}.1", conv).relu()
        for step in range(0 if own else weights.count(f"{name}.{index}")):
            conv = weights.conv(f"{name}.{index}.{step}.0", x, 2)
            x = weights.batch_norm(f"{name}.{index}.{step}.1", conv).relu()
        result.append(x)
    return result


def _module(weights: Weights, name: str, branches: list[Tensor]) -> list[Tensor]:
    """Run each branch's blocks, then add all branches to each one."""
    for index, x in enumerate(branches):
        for block in range(weights.count(f"{name}.branches.{index}")):
            x = residual(weights, f"{name}.branches.{index}.{block}", x)
        branches[index] = x
    fused = []
    for i, target in enumerate(branches):
        total = target
        for j, x in enumerate(branches):
            layer = f"{name}.fuse_layers.{i}.{j}"
            if j > i:
                x = weights.batch_norm(f"{layer}.1", weights.conv(f"{layer}.0", x))
                x = F.interpolate(x, scale_factor=2 ** (j - i), mode="bilinear")
                total = total + F.interpolate(x, target.shape[-2:], mode="bilinear")
            elif j < i:
                for step in range(i - j):
                    conv = weights.conv(f"{layer}.{step}.0", x, 2)
                    x = weights.batch_norm(f"{layer}.{step}.1", conv)
                    x = x.relu() if step < i - j - 1 else x
                total = total + x
        fused.append(total.relu())
    return fused
