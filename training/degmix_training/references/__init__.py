"""What a file of backbone weights describes, computed from the file's own names, slow and obvious.

Each family of backbones has one file with `recognises(tensors)`, `kind(tensors)`, which is its timm
name as far as the shapes tell, the `SIZE` of the image for a proof, and `maps(weights, image,
backbone)`. None of them uses timm's code, so that `pretrained.prove` can compare a loaded backbone
with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from torch import Tensor

from degmix_edge import registry


def find(tensors: Mapping[str, Tensor]) -> ModuleType | None:
    """Return the module of the family that these weights belong to, or None if there is none."""
    for _, module in registry.modules(__name__):
        if module.recognises(tensors):
            return module
    return None
