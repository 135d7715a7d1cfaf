"""TaskExpert-style: experts that all tasks share, gates an image, and a memory of each task.

After the mechanism in Ye and Xu, "TaskExpert: Dynamically Assembling Multi-Task Representations
with Memorial Mixture-of-Experts", ICCV 2023 (arXiv 2307.15324). **The paper's body and code were
not at hand**: expert count, widths, gates and the memory's update are ours, and so no figure of the
paper is expected of it. At each of four depths l, from M_t = 0:

    G_n = GELU(BN(Conv3x3_n(Conv1x1(X_l))))                        shared by all tasks
    g_t = softmax(MLP_t([mean of Conv1x1(X_l), mean of M_t]))      N + 1 numbers an image
    F_t = sum_n g_t[n] G_n + g_t[N + 1] M_t                        read
    M_t = M_t + Conv3x3_t(F_t)                                     write; the last one is the head's

All experts are computed for every image, so the graph is static and its convolutions run in INT8.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings
from degmix_training.models._network import Head, HeadSettings, Network, resize


class Config(BackboneSettings, HeadSettings):
    """Sizes; none of them is the paper's.

    Attributes:
        experts: At each depth.
        width: Channels of experts and memories.
        gate_hidden: Hidden units of a gate.
        level: Which of the backbone's maps, from fine to coarse, has the size that all are
            resized to; those of a plain vision transformer have one size.
        head_channels: Channels between a head's two convolutions; None is `width`.
    """

    backbone: str = "vit_base_patch16_384"
    experts: int = Field(5, ge=2)
    width: int = Field(256, gt=0)
    gate_hidden: int = Field(64, gt=0)
    level: int = Field(1, ge=0, le=3)
    head_channels: int | None = Field(None, gt=0)


class Gate(nn.Module):
    """One task's gate at one depth: two vectors `(N, d)` to shares `(N, E + 1)`; they sum to one.

    A few thousand multiply-adds an image; it stays FP32 in every recipe.
    """

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, hidden)
        self.shares = nn.Linear(hidden, experts + 1)

    def forward(self, features: Tensor, memory: Tensor) -> Tensor:
        return self.shares(F.gelu(self.hidden(torch.cat((features, memory), 1)))).softmax(1)


class Depth(nn.Module):
    """The experts, gates and memory updates at one depth."""

    def __init__(self, channels: int, config: Config, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        width = config.width
        self.project = nn.Conv2d(channels, width, 1)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()
            )
            for _ in range(config.experts)
        )
        self.gates = nn.ModuleDict(
            {task: Gate(width, config.gate_hidden, config.experts) for task in tasks}
        )
        self.write = nn.ModuleDict(
            {task: nn.Conv2d(width, width, 3, padding=1, bias=False) for task in tasks}
        )

    def forward(self, x: Tensor, memories: dict[str, Tensor]) -> dict[str, Tensor]:
        """The map `(N, C, h, w)` and memories `(N, d, h, w)` to new memories."""
        x = self.project(x)
        experts = [expert(x) for expert in self.experts]
        mean = x.mean((2, 3))
        found = {}
        for task, gate in self.gates.items():
            memory = memories.get(task)
            empty = memory is None
            shares = gate(mean, torch.zeros_like(mean) if empty else memory.mean((2, 3)))
            shares = shares[..., None, None].split(1, dim=1)
            read = sum(share * expert for share, expert in zip(shares, experts, strict=False))
            if not empty:
                read = read + shares[-1] * memory
            written = self.write[task](read)
            found[task] = written if empty else memory + written
        return found


class Model(Network):
    """TaskExpert-style, for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.backbone = Backbone.of(config, pretrained=pretrained)
        self.level = 0 if self.backbone.is_plain else config.level
        self.depths = nn.ModuleList(Depth(c, config, tasks) for c in self.backbone.channels)
        hidden = config.head_channels or config.width
        self.heads = nn.ModuleDict(
            {
                task: Head(config.width, hidden, spec.num_channels, config.partially_dynamic)
                for task, spec in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(image)
        size = maps[self.level].shape[-2:]
        memories: dict[str, Tensor] = {}
        for depth, features in zip(self.depths, maps, strict=True):
            memories = depth(resize(features, size), memories)
        return {
            task: resize(head(memories[task]), image.shape[-2:])
            for task, head in self.heads.items()
        }
