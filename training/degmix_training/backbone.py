"""Backbones: any timm model that has `features_only`, by its timm name."""

from __future__ import annotations

import difflib

import timm
from torch import Tensor, nn

from degmix_edge.errors import ConfigError

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """Image `(N, 3, H, W)` to the feature maps at strides 4, 8, 16 and 32.

    Args:
        name: timm name, e.g. `mobilenetv4_conv_small`.
        pretrained: Ask timm for its ImageNet weights (needs the network or timm's cache).

    Raises:
        ConfigError: timm has no such model, or the model has no map at one of the strides.
    """

    def __init__(self, name: str, *, pretrained: bool = False) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
            raise ConfigError(
                f"backbone {name!r}: timm {timm.__version__} has no such model"
                + (f". Did you mean {' or '.join(near)}?" if near else "")
            )
        network = timm.create_model(name, features_only=True)
        reductions = network.feature_info.reduction()
        missing = [s for s in STRIDES if s not in reductions]
        if missing:
            raise ConfigError(
                f"backbone {name!r}: has feature maps at strides {reductions}, "
                f"expected one at each of {list(STRIDES)}; choose a pyramid backbone"
            )
        indices = tuple(len(reductions) - 1 - reductions[::-1].index(s) for s in STRIDES)
        self.network = timm.create_model(
            name, features_only=True, out_indices=indices, pretrained=pretrained
        )
        self.channels: list[int] = self.network.feature_info.channels()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Four maps `(N, channels[i], ceil(H / STRIDES[i]), ceil(W / STRIDES[i]))`."""
        return self.network(image)
