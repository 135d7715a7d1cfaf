"""DenseMTL: a decoder a task, and attention between every pair of them at one level.

Lopes et al., "Cross-task Attention Mechanism for Dense Multi-task Learning", WACV 2023 (arXiv
2206.08927). Decoders go from the coarsest of five maps to the finest. At one level each task i
takes from every other task j, with weights of the pair's own:

    e   = ReLU(Conv3x3(f_j))                                     what j offers
    sa  = Conv3x3(e) * sigmoid(Conv3x3(e))                       its own gate
    co  = alpha * up(softmax(Q(f_i) K(e)^T / sqrt(d)) V(e))      attention at a coarser grid
    f_i = f_i + CBR1x1(concat over j of CBR1x1([sa, co]))        alpha starts at 0

The published form has ResNet-101 with a dilated last stage, reflecting pads and full-resolution
outputs: no network for an edge device. `light` in `docs/zoo.md` stops at stride 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings
from degmix_training.losses import INVERSE
from degmix_training.models._network import (
    Head,
    HeadSettings,
    Network,
    conv_norm_relu,
    need_several,
    resize,
)

CENTIMETRE = 100.0


class Config(BackboneSettings, HeadSettings):
    """Sizes of DenseMTL; the defaults are the published form.

    Attributes:
        backbone: A timm pyramid with a map at stride 2.
        dilated: Its last stage dilates instead of striding.
        widths: Channels of a decoder at levels 0 (finest) to 4.
        finest: Level at which decoders end; published: 0, the image's size.
        exchange: Level of the exchange; published: 1.
        down: How much coarser the attention's grid is than its level.
        pads: `reflect` as published; `zeros` lets a builder fuse pad and convolution.
        depth: `metres`, or `inverse` as in the released weights, which give 65536 / (depth in cm
            + 1); turned to metres on the way out. Its loss is `depth_loss: inverse_berhu`.
    """

    backbone: str = "resnet101"
    dilated: bool = True
    widths: tuple[int, int, int, int, int] = (64, 128, 128, 256, 256)
    finest: int = Field(0, ge=0, le=3)
    exchange: int = Field(1, ge=0, le=4)
    down: Literal[1, 2, 4, 8] = 4
    pads: Literal["reflect", "zeros"] = "reflect"
    depth: Literal["metres", "inverse"] = "metres"

    @model_validator(mode="after")
    def _exchange_is_decoded(self) -> Config:
        if self.exchange < self.finest:
            raise ValueError(
                f"exchange at level {self.exchange}, expected at least finest = {self.finest}"
            )
        return self


class Block(nn.Sequential):
    """A padded 3x3 convolution and ELU: `(N, C, h, w) -> (N, d, h, w)`."""

    def __init__(self, channels: int, dim: int, pads: str) -> None:
        conv = nn.Conv2d(channels, dim, 3, padding=1, padding_mode=pads)
        super().__init__(conv, nn.ELU())


class PyramidPool(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2018): 1x1, three rates, and the mean."""

    RATES = (6, 12, 18)

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(*conv_norm_relu(channels, dim, 1))])
        for rate in self.RATES:
            conv = nn.Conv2d(channels, dim, 3, padding=rate, dilation=rate, bias=False)
            self.branches.append(nn.Sequential(conv, nn.BatchNorm2d(dim), nn.ReLU()))
        # No norm: a batch of one image has one value a channel here.
        self.pool = nn.Sequential(nn.Conv2d(channels, dim, 1), nn.ReLU())
        inputs = dim * (len(self.branches) + 1)
        self.project = nn.Sequential(*conv_norm_relu(inputs, dim, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(b(x) for b in self.branches), mean], dim=1))


class TaskDecoder(nn.Module):
    """Five maps to one task's features, from level 4 to `finest`."""

    def __init__(self, channels: list[int], config: Config) -> None:
        super().__init__()
        self.exchange = config.exchange
        self.pool = PyramidPool(channels[4], config.widths[4])
        self.levels = list(range(4, config.finest - 1, -1))
        self.first, self.second = nn.ModuleList(), nn.ModuleList()
        wide = config.widths[4]
        for level in self.levels:
            dim = config.widths[level]
            # The pooled map is the first of level 4.
            self.first.append(nn.Identity() if level == 4 else Block(wide, dim, config.pads))
            skip = channels[level - 1] if level else 0
            self.second.append(Block(dim + skip, dim, config.pads))
            wide = dim

    def forward(self, maps: list[Tensor], start: int, x: Tensor | None = None) -> Tensor:
        """Features after the exchange level (start 4), or from behind it to the end.

        `x` is `(N, d, h, w)`, the features of the level before `start`.
        """
        end = self.exchange if x is None else self.levels[-1]
        x = self.pool(maps[4]) if x is None else x
        for index, level in enumerate(self.levels):
            if not end <= level <= start:
                continue
            x = self.first[index](x)
            if level:
                x = nearest(x, maps[level - 1].shape[-2:])
                x = torch.cat((x, maps[level - 1]), dim=1)
            else:
                x = nearest(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            x = self.second[index](x)
        return x


class CrossTask(nn.Module):
    """What task j gives task i: features `(N, d, h, w)` of both to `(N, d, h, w)`."""

    def __init__(self, dim: int, down: int) -> None:
        super().__init__()
        half = max(1, dim // 2)
        self.down, self.scale = down, dim**-0.5
        self.extract = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU())
        self.message = nn.Conv2d(dim, half, 3, padding=1, bias=False)
        self.attention = nn.Conv2d(dim, half, 3, padding=1, bias=False)
        self.query = nn.Sequential(*conv_norm_relu(dim, dim, 1))
        self.key = nn.Sequential(*conv_norm_relu(dim, dim, 1))
        self.value = nn.Sequential(*conv_norm_relu(dim, dim, 1))
        self.alpha = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.join = nn.Sequential(*conv_norm_relu(half + dim, dim, 1))

    def forward(self, mine: Tensor, other: Tensor) -> Tensor:
        offered = self.extract(other)
        gated = self.message(offered) * self.attention(offered).sigmoid()
        height, width = mine.shape[-2:]
        small = (height // self.down, width // self.down)
        pooled = F.max_pool2d(offered, self.down) if self.down > 1 else offered
        q = self.query(nearest(mine, small)).flatten(2).transpose(1, 2)  # N hw d
        k = self.key(pooled).flatten(2)  # N d hw
        v = self.value(pooled).flatten(2).transpose(1, 2)
        # Plain products, which builders recognise and fuse.
        attended = ((q @ k) * self.scale).softmax(-1) @ v
        attended = attended.transpose(1, 2).unflatten(2, small)
        taken = self.alpha * nearest(attended, (height, width))
        return self.join(torch.cat((gated, taken), dim=1))


class Exchange(nn.Module):
    """All tasks' features at the exchange level to the same, each with what the others give."""

    def __init__(self, dim: int, down: int, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict(
            {i: nn.ModuleDict({j: CrossTask(dim, down) for j in tasks if j != i}) for i in tasks}
        )
        inputs = dim * (len(tasks) - 1)
        self.merge = nn.ModuleDict(
            {i: nn.Sequential(*conv_norm_relu(inputs, dim, 1)) for i in tasks}
        )

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for i, pairs in self.pairs.items():
            given = [pair(features[i], features[j]) for j, pair in pairs.items()]
            found[i] = features[i] + self.merge[i](torch.cat(given, dim=1))
        return found


class Model(Network):
    """DenseMTL for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        need_several("densemtl", tasks)
        self.config = config
        self.backbone = Backbone.of(
            config, pretrained=pretrained, five=True, dilated=config.dilated
        )
        channels = self.backbone.channels
        self.multiple = max(self.backbone.strides[-1], config.down * 2**config.exchange)
        self.decoders = nn.ModuleDict({task: TaskDecoder(channels, config) for task in tasks})
        wide = config.widths[config.exchange]
        self.exchange = Exchange(wide, config.down, tasks)
        # Predictions before the exchange, in training only.
        self.side = nn.ModuleDict({t: nn.Conv2d(wide, s.num_channels, 1) for t, s in tasks.items()})
        last = config.widths[config.finest]
        dynamic = config.partially_dynamic
        self.heads = nn.ModuleDict(
            {
                task: nn.Conv2d(last, spec.num_channels, 1)
                if dynamic is None
                else Head(last, last, spec.num_channels, dynamic)
                for task, spec in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        image = F.pad(image, (0, right, 0, below)) if below or right else image
        size = (height + below, width + right)
        maps = self.backbone(image)
        before = {task: decoder(maps, 4) for task, decoder in self.decoders.items()}
        after = self.exchange(before)
        outputs = {}
        for task, decoder in self.decoders.items():
            features = after[task]
            if self.config.exchange > self.config.finest:
                features = decoder(maps, self.config.exchange - 1, features)
            outputs[task] = self._out(task, self.heads[task](features), size)[..., :height, :width]
        if self.training:
            for task, layer in self.side.items():
                side = self._out(task, layer(before[task]), size)
                outputs[f"{task}@side"] = side[..., :height, :width]
        return outputs

    def _out(self, task: str, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """At the padded image's size, depth in metres."""
        if task == "depth" and self.config.depth == "inverse":
            # Below 1, beyond 655 m, a line goes on: an untrained network starts there.
            inverse = INVERSE / logits.clamp(min=1.0) + INVERSE * (1 - logits).clamp(min=0.0)
            logits = (inverse - 1) / CENTIMETRE
        return logits if logits.shape[-2:] == size else resize(logits, size)


def nearest(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """To `size`; a whole multiple or a whole part of the map's own."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="nearest")
