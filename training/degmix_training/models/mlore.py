"""MLoRE: a mixture of low-rank experts a task, whose experts are linear.

Yang et al., "Multi-Task Dense Prediction via Mixture of Low-Rank Experts", CVPR 2024 (arXiv
2403.17749). Two blocks in sequence at each of four depths; for task t, with o = Conv1x1_t(x):

    w, m = router_t(o)                        numbers an image: 15 shares, 9 not zero, and one more
    E_i(o) = Conv1x1(Conv3x3(o)), rank r_i    15 experts, shared by all tasks
    y = Conv1x1_t(GELU(BN_t(BN'_t(sum_i w_i E_i(o)) + m E_t(o) + Shared(o))))

where E_t has a rank of its own and Shared is a full Conv3x3, fed with o without its gradient. The
four depths are weighted by a softmax over depths at each pixel, and a head follows.

Since experts are linear, the mixture is one 3x3 convolution whose kernel depends on the image. It
is written here with the experts' ranks side by side, which INT8 and any batch size can have; the
pass `fold_conv_mixture` makes the run-time kernel of it where that is less work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from degmix_edge.errors import ShapeError
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings, PlainSettings
from degmix_training.models._network import Head, HeadSettings, Network, resize

MASKED = -1e10
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Config(BackboneSettings, HeadSettings):
    """Sizes of MLoRE; the defaults are those of PASCAL-Context with ViT-S.

    Attributes:
        height, width: Input size in pixels. The router weighs positions, so a network has one
            size; training fills them in.
        channels: C of the mixtures.
        ranks: Ranks of the shared experts.
        task_rank: Rank of each task's own expert.
        top_k: Experts that an image uses.
        mask_first: Mask the others before the softmax, as for NYUD-v2; else after it, without
            dividing again, as for PASCAL-Context.
        blocks: Mixtures in sequence at each depth.
        balance: Weight of the loss that spreads images over experts.
        activation: Activation of the heads; published: GELU. Checkpoints of the first format have
            ReLU.
        plain: As published, there is no class token, the last map has the final LayerNorm, and the
            position table is resized without antialiasing.
        level: Which of the backbone's maps, from fine to coarse, has the size that all are
            resized to; those of a plain vision transformer have one size.
        head_channels: Channels between a head's two convolutions; None is `channels`.
    """

    backbone: str = "vit_small_patch16_384"
    plain: PlainSettings = PlainSettings(class_token=False, last_norm=True, table_resize="plain")
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: int = Field(192, gt=0)
    ranks: tuple[int, ...] = tuple(range(8, 65, 4))
    task_rank: int = Field(32, gt=0)
    top_k: int = Field(9, gt=0)
    mask_first: bool = False
    blocks: int = Field(2, gt=0)
    balance: float = Field(1e-4, ge=0)
    activation: Literal["gelu", "relu"] = "gelu"
    level: int = Field(1, ge=0, le=3)
    head_channels: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _enough_experts(self) -> Config:
        if len(self.ranks) < self.top_k:
            raise ValueError(
                f"{len(self.ranks)} experts (ranks), expected at least top_k = {self.top_k}"
            )
        if min(self.ranks) < 1:
            raise ValueError(f"ranks {self.ranks} must be positive")
        return self


class Router(nn.Module):
    """`(N, C, h, w)` to shares `(N, E)` and the weight of the task's own expert `(N, 1)`."""

    def __init__(self, config: Config, positions: int) -> None:
        super().__init__()
        c, hidden = config.channels, max(1, config.channels // 4)
        self.top_k, self.mask_first = config.top_k, config.mask_first
        self.count = len(config.ranks)
        self.pixel = nn.Conv2d(c, hidden, 1)
        self.pixel_norm = nn.LayerNorm(hidden)
        self.pixel_out = nn.Conv2d(hidden, hidden, 1)
        self.positions = nn.Linear(positions, 1)
        self.channel_norm = nn.LayerNorm(c)
        self.channel = nn.Linear(c, hidden)
        self.out = nn.Linear(2 * hidden, 2 * self.count + 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the shares and the own expert's weight; training adds noise to the scores."""
        pixel = self.pixel_norm(self.pixel(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        pixel = self.pixel_out(F.gelu(pixel)).mean((2, 3))
        channel = self.channel(F.gelu(self.channel_norm(self.positions(x.flatten(2)).squeeze(2))))
        found = self.out(torch.cat((pixel, channel), dim=1))
        scores, spread, own = found.split((self.count, self.count, 1), dim=1)
        if self.training:
            scores = scores + torch.randn_like(scores) * spread
        kept = scores.topk(self.top_k, dim=1).indices
        mask = torch.zeros_like(scores).scatter(1, kept, 1.0)
        if self.mask_first:
            return (scores + (1 - mask) * MASKED).softmax(1), own
        return scores.softmax(1) * mask, own


class LowRank(nn.Module):
    """Linear convolutions of low rank: `down` to all ranks side by side, `up` back; biases too."""

    def __init__(self, channels: int, ranks: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, sum(ranks), 3, padding=1)
        self.up = nn.Conv2d(sum(ranks), channels, 1, bias=False)
        self.up_bias = nn.Parameter(torch.zeros(len(ranks), channels))
        expert = [index for index, rank in enumerate(ranks) for _ in range(rank)]
        self.register_buffer("expert", torch.tensor(expert), persistent=False)
        with torch.no_grad():  # each expert starts like a layer of its own rank
            for weight, rank in zip(self.up.weight.split(ranks, dim=1), ranks, strict=True):
                bound = (rank * len(ranks)) ** -0.5
                weight.uniform_(-bound, bound)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """`sum_i shares_i E_i(x)` of `(N, C, h, w)` and `(N, E)`."""
        scale = shares if shares.shape[1] == 1 else shares.index_select(1, self.expert)
        mixed = self.up(self.down(x) * scale[..., None, None])
        return mixed + (shares @ self.up_bias)[..., None, None]


class Mixture(nn.Module):
    """One block for all tasks: `{task: (N, C, h, w)}` to the same."""

    def __init__(self, config: Config, tasks: Mapping[str, TaskSpec], positions: int) -> None:
        super().__init__()
        c = config.channels
        self.experts = LowRank(c, config.ranks)
        self.shared = nn.Conv2d(c, c, 3, padding=1)
        self.enter = nn.ModuleDict({t: nn.Conv2d(c, c, 1) for t in tasks})
        self.routers = nn.ModuleDict({t: Router(config, positions) for t in tasks})
        self.own = nn.ModuleDict({t: LowRank(c, (config.task_rank,)) for t in tasks})
        self.mixture_norm = nn.ModuleDict({t: nn.BatchNorm2d(c) for t in tasks})
        self.norm = nn.ModuleDict({t: nn.BatchNorm2d(c) for t in tasks})
        self.leave = nn.ModuleDict({t: nn.Conv2d(c, c, 1) for t in tasks})

    def forward(self, x: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """New maps, and how unevenly experts are used by all tasks and images together."""
        found, routed = {}, []
        for task, enter in self.enter.items():
            o = enter(x[task])
            shares, own = self.routers[task](o)
            mixed = self.mixture_norm[task](self.experts(o, shares)) + self.own[task](o, own)
            mixed = self.norm[task](mixed + self.shared(o.detach()))
            found[task] = self.leave[task](F.gelu(mixed))
            routed.append(shares)
        return found, _variation(torch.cat(routed).mean(0))


class Model(Network):
    """MLoRE for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`, of one size."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone.of(config, pretrained=pretrained)
        self.level = 0 if self.backbone.is_plain else config.level
        stride = self.backbone.strides[self.level]
        positions = -(-config.height // stride) * -(-config.width // stride)
        c = config.channels
        self.project = nn.ModuleList(nn.Conv2d(n, c, 1) for n in self.backbone.channels)
        self.depths = nn.ModuleList(
            nn.ModuleList(Mixture(config, tasks, positions) for _ in range(config.blocks))
            for _ in self.backbone.channels
        )
        depths = len(self.project)
        self.weigh = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Conv2d(depths * c, c, 1, bias=False),
                    nn.BatchNorm2d(c),
                    nn.GELU(),
                    nn.Conv2d(c, depths, 3, padding=1),
                )
                for task in tasks
            }
        )
        hidden = config.head_channels or c
        activation = ACTIVATIONS[config.activation]
        self.heads = nn.ModuleDict(
            {
                t: Head(c, hidden, s.num_channels, config.partially_dynamic, activation)
                for t, s in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the logits of all tasks.

        Raises:
            ShapeError: The image has another size than the router's positions.
        """
        height, width = image.shape[-2:]
        if (height, width) != (self.config.height, self.config.width):
            raise ShapeError(
                f"mlore: image of {height}x{width}, expected {self.config.height}x"
                f"{self.config.width}: its routers have one weight a position, which another size "
                f"does not have. Train it at that size"
            )
        maps = self.backbone(image)
        size = maps[self.level].shape[-2:]
        depths: list[dict[str, Tensor]] = []
        balance = []
        for project, blocks, features in zip(self.project, self.depths, maps, strict=True):
            x = project(resize(features, size))
            found = dict.fromkeys(self.heads, x)
            for block in blocks:
                found, uneven = block(found)
                balance.append(uneven)
            depths.append(found)
        outputs = {}
        for task, head in self.heads.items():
            of_task = [found[task] for found in depths]
            weights = self.weigh[task](torch.cat(of_task, dim=1)).softmax(1).split(1, dim=1)
            fused = sum(w * m for w, m in zip(weights, of_task, strict=True))
            enlarged = resize(fused, (4 * size[0], 4 * size[1]))
            outputs[task] = resize(head(enlarged), image.shape[-2:])
        if self.training and self.config.balance:
            outputs["@balance"] = self.config.balance * torch.stack(balance).sum()
        return outputs


def _variation(x: Tensor) -> Tensor:
    """The squared coefficient of variation of a sample."""
    return x.var() / (x.mean().square() + 1e-10)
