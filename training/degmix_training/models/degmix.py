"""DeGMix: deformable mixers a task, task interaction, softmax-free task queries, one shared gate.

Xu et al., "Deformable Mixer Transformer with Gating for Multi-Task Learning of Dense Prediction",
arXiv 2308.05721 v5. Follows what the authors' public code computes for one image a device, and does
so
for every image of a batch:

- the patch embedding puts the head at 1/16 of the image (`patch_size` 4 on stride 4);
- the interaction attends over a sequence of length one there, so it is two linear layers and a
norm;
- the query has no softmax, so `(Q K^T) V` is computed as `Q (K^T V)`: the same, without the
  `hw x T hw` matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from degmix_edge.config import Settings
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone
from degmix_training.models._degmix_folded import Folded, image_of, resize, tokens_of
from degmix_training.models._mixer import MixerBlock


class Config(Settings):
    """Sizes of DeGMix. The defaults are the published ones, but for the backbone."""

    backbone: str = "mobilenetv4_conv_small"
    dim: int = Field(256, gt=0)
    depth: int = Field(2, gt=0)
    num_heads: int = Field(2, gt=0)
    patch_size: int = Field(4, gt=0)
    head_channels: int | None = Field(None, gt=0)
    """Channels between a head's two convolutions; None is an eighth of the backbone's sum."""
    zero_offset_init: bool = False

    @model_validator(mode="after")
    def _dim_splits(self) -> Config:
        if self.dim % self.num_heads or self.dim % 2:
            raise ValueError(
                f"dim {self.dim} must be even and a multiple of num_heads {self.num_heads}"
            )
        return self


class TaskQuery(nn.Module):
    """One task's query over all tokens: `(N, L, d), (N, T L, d) -> (N, L, d)`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim) for _ in range(3))
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.project = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, task: Tensor, fused: Tensor) -> Tensor:
        """See the class."""
        q = self._heads(self.to_q(self.norm_q(task)))  # N heads L hd
        k = self._heads(self.to_k(self.norm_k(fused)))  # N heads TL hd
        v = self._heads(self.to_v(self.norm_v(fused)))
        scale = q.shape[-1] ** -0.5
        attended = (q * scale) @ (k.transpose(-2, -1) @ v)  # N heads L hd
        attended = attended.transpose(1, 2).flatten(2)
        return task + self.out_norm(self.out(self.project(attended)))

    def _heads(self, tokens: Tensor) -> Tensor:
        n, length, dim = tokens.shape
        return tokens.view(n, length, self.num_heads, dim // self.num_heads).transpose(1, 2)


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
        """See the class."""
        passed, gating = F.gelu(self.expand(self.norm(tokens))).chunk(2, dim=-1)
        return tokens + self.contract(passed * self.gate(self.gate_norm(gating)))


class Head(nn.Sequential):
    """One task's head: `(N, d, h, w) -> (N, num_channels, h, w)` logits."""

    def __init__(self, dim: int, hidden: int, num_channels: int) -> None:
        super().__init__(
            nn.Conv2d(dim, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, num_channels, 1),
        )
        nn.init.normal_(self[-1].weight, std=0.01)
        nn.init.zeros_(self[-1].bias)


class Model(nn.Module):
    """DeGMix for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        dim, self.patch_size = config.dim, config.patch_size
        self.backbone = Backbone(config.backbone, pretrained=pretrained)
        channels = sum(self.backbone.channels)
        hidden = config.head_channels or channels // 8
        self.embed = nn.Conv2d(channels, dim, config.patch_size, stride=config.patch_size)
        self.embed_norm = nn.LayerNorm(dim)
        self.mixers = nn.ModuleDict(
            {
                task: nn.Sequential(
                    *(
                        MixerBlock(dim, zero_offset_init=config.zero_offset_init)
                        for _ in range(config.depth)
                    )
                )
                for task in tasks
            }
        )
        self.interact = nn.Sequential(
            nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )
        self.queries = nn.ModuleDict({task: TaskQuery(dim, config.num_heads) for task in tasks})
        self.gate = Gate(dim)
        self.heads = nn.ModuleDict(
            {task: Head(dim, hidden, spec.num_channels) for task, spec in tasks.items()}
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        embedded = self._embed(self.backbone(image))
        mixed = {task: tokens_of(mixer(embedded)) for task, mixer in self.mixers.items()}
        fused = self.interact(torch.cat(list(mixed.values()), dim=1))
        logits = {}
        for task, query in self.queries.items():
            tokens = self.gate(query(mixed[task], fused))
            coarse = self.heads[task](image_of(tokens, embedded.shape[-2:]))
            logits[task] = resize(coarse, image.shape[-2:])
        return logits

    def fold_for_inference(self) -> nn.Module:
        """The same function with fewer operations, for export; see `_degmix_folded`."""
        return Folded(self)

    def _embed(self, maps: list[Tensor]) -> Tensor:
        """The four scales as one map `(N, d, h, w)`, zero-padded to whole patches."""
        size = maps[0].shape[-2:]
        stacked = torch.cat([maps[0], *(resize(m, size) for m in maps[1:])], dim=1)
        below, right = (-side % self.patch_size for side in size)
        if below or right:
            stacked = F.pad(stacked, (0, right, 0, below))
        embedded = self.embed(stacked)
        return image_of(self.embed_norm(tokens_of(embedded)), embedded.shape[-2:])
