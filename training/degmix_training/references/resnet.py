"""ResNet under torchvision's names: He et al., "Deep Residual Learning", CVPR 2016."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from degmix_training.references._weights import Weights, count, residual

KINDS = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
"""Depth by blocks of the four stages, and whether blocks are bottlenecks."""

SIZE = (64, 96)
"""Height and width of the image that a backbone is proved on, in multiples of 32."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a plain ResNet, with a 7x7 stem and ordinary convolutions."""
    stem, block = tensors.get("conv1.weight"), tensors.get("layer4.0.conv2.weight")
    if stem is None or block is None or stem.shape[-1] != 7 or "layer1.0.se.fc1.weight" in tensors:
        return False
    return block.shape[0] == block.shape[1] and (stem.shape[0], block.shape[0]) == (64, 512)


def kind(tensors: Mapping[str, Tensor]) -> str:
    """Return its timm name, or a description where timm has no such ResNet."""
    stages = tuple(count(tensors, f"layer{stage}") for stage in (1, 2, 3, 4))
    depth = KINDS.get((stages, "layer1.0.conv3.weight" in tensors))
    return f"resnet{depth}" if depth else f"a ResNet with stages of {stages} blocks"


def maps(weights: Weights, image: Tensor, backbone: Any) -> list[Tensor]:
    """Compute the maps at strides 2, 4, 8, 16 and 32, or 16 for a dilated last stage."""
    x = weights.batch_norm("bn1", weights.conv("conv1", image, 2)).relu()
    found = [x]
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        dilated = stage == 4 and backbone.strides[-1] == backbone.strides[-2]
        for block in range(weights.count(f"layer{stage}")):
            stride = 2 if block == 0 and stage > 1 and not dilated else 1
            # The first block of a dilated stage keeps the dilation of the stage before.
            dilation = 2 if dilated and block > 0 else 1
            x = residual(weights, f"layer{stage}.{block}", x, stride, dilation)
        found.append(x)
    return found
