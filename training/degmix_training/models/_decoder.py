"""What DeMT, DeMTG and DeGMix share: a backbone's maps to logits, by mixers and task queries.

Xu et al., "DeMT", AAAI 2023 (arXiv 2301.03461), and arXiv 2308.05721 v1 (DeMTG) and v5 (DeGMix).
The authors' public code attends over the batch axis in its interaction, so it means what it
computes for one image a device. That is what is here, for every row of a batch alone:

    maps -> embed -> x            one map of the width `dim`
    t_i = mixers_i(x)             every task its own deformable mixers
    z   = interact([t_1 ... t_T]) attention over a sequence of one is two linear layers; then
                                  a linear layer and a norm, for each token alone
    y_i = query_i(t_i, z)         where the networks differ; residual
    y_i = y_i + gate(y_i)         DeMTG and DeGMix; the same weights for every task
    logits_i = head_i(y_i)        resized to the image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from degmix_edge.errors import ConfigError
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings
from degmix_training.models._mixer import MixerBlock, MixerConfig
from degmix_training.models._network import Head, HeadSettings, Network, conv_norm_relu, resize


class DecoderConfig(BackboneSettings, MixerConfig, HeadSettings):
    """Sizes of the three networks; `dim` 256 is the published one (128 for HRNet-18).

    Attributes:
        depth: Mixer blocks a task.
        num_heads: Heads of the task queries.
        head_channels: Channels between a head's two convolutions; None is an eighth of the
            backbone's sum, as published.
    """

    dim: int = Field(256, gt=0)
    depth: int = Field(2, gt=0)
    num_heads: int = Field(2, gt=0)
    head_channels: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _dim_splits(self) -> DecoderConfig:
        if self.dim % self.num_heads or self.dim % 2:
            raise ValueError(
                f"dim {self.dim} must be even and a multiple of num_heads {self.num_heads}"
            )
        if self.dim % self.deform_groups:
            raise ValueError(
                f"dim {self.dim} must be a multiple of deform_groups {self.deform_groups}"
            )
        return self


class Embed(nn.Conv2d):
    """Four maps to one `(N, dim, h, w)`: resize to the first, concatenate, `patch x patch` patches.

    Zero-padded below and to the right to whole patches. With patches of one pixel this is a linear
    layer a pixel.
    """

    def __init__(self, channels: list[int], dim: int, patch: int) -> None:
        super().__init__(sum(channels), dim, patch, stride=patch)
        self.channels = channels

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        stacked = torch.cat([maps[0], *(resize(m, size) for m in maps[1:])], dim=1)
        return super().forward(pad_to_multiple(stacked, self.stride[0]))


class PlainEmbed(nn.Module):
    """Four maps of a plain vision transformer at stride 16 to one `(N, dim, 4h, 4w)` at stride 4.

    Each map goes through two 3x3 convolutions and is resized; two more join them. From the public
    DeGMix code's ViT head.
    """

    def __init__(self, channels: list[int], dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(*conv_norm_relu(c, hidden), *conv_norm_relu(hidden, hidden))
            for c in channels
        )
        self.join = nn.Sequential(
            *conv_norm_relu(hidden * len(channels), dim), *conv_norm_relu(dim, dim)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        height, width = maps[0].shape[-2:]
        size = torch.Size((4 * height, 4 * width))
        scales = [resize(s(m), size) for s, m in zip(self.scales, maps, strict=True)]
        return self.join(torch.cat(scales, dim=1))


class Gate(nn.Module):
    """The gate that every task shares: `(N, L, d) -> (N, L, d)`, over channels, residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        self.gate_norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, dim)
        self.contract = nn.Linear(dim, dim)
        # Open at the start of training.
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        passed, gating = F.gelu(self.expand(self.norm(tokens))).chunk(2, dim=-1)
        return tokens + self.contract(passed * self.gate(self.gate_norm(gating)))


class Decoder(Network):
    """A network of the family: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`.

    Args:
        config: Its sizes.
        tasks: Its tasks, in order.
        query: Makes one task's query from `(dim, num_heads)`. A query maps tokens `(N, L, d)` and
            fused tokens `(N, T L, d)`, task by task, to tokens.
        patch: Side of the embedding's patches; does not apply to a plain vision transformer.
        gated: With the shared gate.
        pretrained: Ask timm for the backbone's weights.

    Attributes:
        is_split: The tokens of each task are fused alone: see `split_tasks`.
        has_places: What a task leaves to the others has a value for each token.
    """

    is_split = False
    has_places = True

    def __init__(
        self,
        config: DecoderConfig,
        tasks: Mapping[str, TaskSpec],
        query: Callable[[int, int], nn.Module],
        *,
        patch: int,
        gated: bool,
        pretrained: bool,
    ) -> None:
        super().__init__()
        dim = config.dim
        self.backbone = Backbone.of(config, pretrained=pretrained)
        channels = self.backbone.channels
        if self.backbone.is_plain and "patch_size" in config.model_fields_set:
            raise ConfigError(
                f"patch_size {patch}: does not apply to the plain vision transformer "
                f"{config.backbone!r}, whose maps go from stride 16 to 4; leave it out"
            )
        hidden = config.head_channels or max(1, sum(channels) // 8)
        self.embed = (
            PlainEmbed(channels, dim) if self.backbone.is_plain else Embed(channels, dim, patch)
        )
        self.embed_norm = nn.Identity() if self.backbone.is_plain else nn.LayerNorm(dim)
        self.mixers = nn.ModuleDict(
            {
                task: nn.Sequential(*(MixerBlock(dim, config) for _ in range(config.depth)))
                for task in tasks
            }
        )
        self.interact = nn.Sequential(
            nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )
        self.queries = nn.ModuleDict({task: query(dim, config.num_heads) for task in tasks})
        self.gate = Gate(dim) if gated else nn.Identity()
        self.heads = nn.ModuleDict(
            {
                task: Head(dim, hidden, spec.num_channels, config.partially_dynamic)
                for task, spec in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.decode(self.backbone(image), image.shape[-2:])

    def decode(self, maps: list[Tensor], size: torch.Size) -> dict[str, Tensor]:
        """The backbone's four maps to logits at the image's `size`."""
        embedded = self.embed(maps)
        small = embedded.shape[-2:]
        embedded = image_of(self.embed_norm(tokens_of(embedded)), small)
        mixed = {task: tokens_of(mixer(embedded)) for task, mixer in self.mixers.items()}
        fused = self._fused(list(mixed.values()))
        logits = {}
        for task, query in self.queries.items():
            tokens = self.gate(query(mixed[task], fused))
            logits[task] = resize(self.heads[task](image_of(tokens, small)), size)
        return logits

    def _fused(self, tokens: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
        if self.is_split:
            return self.meet(tuple(self.share(self.interact(one)) for one in tokens))
        return self.share(self.interact(torch.cat(tokens, dim=1)))

    def share(self, fused: Tensor) -> Tensor:
        """What all queries take of the fused tokens; a folded network computes more here."""
        return fused

    def meet(self, states: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """What all queries take of what `share` gave for each task alone."""
        return torch.cat(states, dim=1)

    def split_tasks(self) -> None:
        """Fuse the tokens of each task alone: the interaction is the same for every token.

        The function stays the same, and a graph of it has nodes of each task up to the queries.
        """
        self.is_split = True


def tokens_of(image: Tensor) -> Tensor:
    """`(N, d, h, w) -> (N, h w, d)`."""
    return image.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, size: torch.Size) -> Tensor:
    """`(N, h w, d) -> (N, d, h, w)`."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *size)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Zeros below and to the right until both sides are multiples."""
    below, right = (-side % multiple for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, below)) if below or right else image
