"""InvPT: attention over the pixels of all tasks together, at resolutions that grow by two.

Ye and Xu, "Inverted Pyramid Multi-task Transformer for Dense Scene Understanding", ECCV 2022 (arXiv
2203.07997). With x the backbone's last map at stride 32, for every task t:

    F_t = two 3x3 convolutions of x
    initial_t = Conv1x1(F_t)                      a prediction under t's loss; in training only
    X_t = Conv1x1([F_t, initial_t])               d channels
    three stages at the strides 32, 16 and 8, with d, d / 2 and d / 4 channels:
        X_t = Up_t(X_t) + Skip(backbone map)      the first stage has neither
        X = X + Attention(LayerNorm(X))           of all pixels of all tasks
        X = X + MLP(LayerNorm(X))
        Y_t += resize(Conv1x1_t(LayerNorm(X)_t))  at stride 4; this norm is over all tasks' channels
    logits_t = head_t(Y_t)

Queries have half of a stage's resolution, and keys and values have stride 64, so attention stays
affordable. A stage enlarges the scores of the stage before and mixes them with its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import Mlp
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings, PlainSettings
from degmix_training.models._network import (
    Head,
    HeadSettings,
    Network,
    conv_norm_relu,
    resize,
)

STRIDES = (32, 16, 8)
"""Of the stages."""
KEY_STRIDE = 64
"""Of keys and values; images are padded to a multiple."""
HEADS = 2
MLP_RATIO = 4


class Config(BackboneSettings, HeadSettings):
    """Sizes of InvPT; the defaults are those of NYUD-v2 and PASCAL-Context with ViT-L.

    Attributes:
        plain: As published, the last map has the transformer's final LayerNorm, and the position
            table is resized without antialiasing.
        features: Channels of a task's features in front of the stages.
        dim: Channels of the first stage and of the heads; the other stages have a half and a
            quarter of them.
    """

    backbone: str = "vit_large_patch16_384"
    plain: PlainSettings = PlainSettings(last_norm=True, table_resize="plain")
    features: int = Field(512, gt=0)
    dim: int = Field(576, gt=0, multiple_of=4 * HEADS)


class Attention(nn.Module):
    """Attention between the pixels of all tasks; also gives its scores, for the next stage."""

    def __init__(self, dim: int, tasks: Iterable[str], stride: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Conv2d(dim, dim, 3, stride=2, padding=1, groups=dim, bias=False),
                    nn.BatchNorm2d(dim),
                )
                for task in tasks
            }
        )
        self.pool = nn.AvgPool2d(KEY_STRIDE // stride)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        is_first = stride == STRIDES[0]
        self.mix = None if is_first else nn.Conv2d(2 * HEADS, HEADS, 1)
        self.scale = dim**-0.5

    def forward(self, maps: Sequence[Tensor], before: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """Compute new maps `(N, C, h, w)` of all tasks.

        Args:
            maps: `(N, C, h, w)` of each task.
            before: The scores of the stage before, `(N, heads, T h w / 16, keys)`.

        Returns:
            The maps, and the scores `(N, heads, T h w / 4, keys)` in front of the softmax.
        """
        reduced = [layers(m) for layers, m in zip(self.reduce.values(), maps, strict=True)]
        pooled = join([self.pool(m) for m in maps])
        q, k, v = (
            layer(tokens).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for layer, tokens in (
                (self.query, join(reduced)),
                (self.key, pooled),
                (self.value, pooled),
            )
        )
        scores = q @ k.transpose(2, 3) * self.scale
        grid = (len(maps), *reduced[0].shape[-2:])
        if self.mix is not None and before is not None:
            scores = self.mix(torch.cat((scores, _enlarge(before, grid)), dim=1))
        attended = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return [resize(m, maps[0].shape[-2:]) for m in part(attended, grid)], scores


class Stage(nn.Module):
    """One resolution: maps `(N, C, h, w)` of all tasks to the next, and what the heads get."""

    def __init__(
        self, dim: int, out: int, tasks: Sequence[str], stride: int, skip: nn.Module | None
    ) -> None:
        super().__init__()
        is_first = skip is None
        self.up = nn.ModuleDict({} if is_first else {t: _up(2 * dim, dim) for t in tasks})
        self.skip = skip
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, tasks, stride)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.norm_all = nn.LayerNorm(dim * len(tasks))
        self.widen = nn.ModuleDict(
            {t: nn.Identity() if is_first else nn.Conv2d(dim, out, 1) for t in tasks}
        )

    def forward(
        self, maps: Sequence[Tensor], scores: Tensor | None, backbone: Tensor
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Compute the maps, the scores, and each task's map `(N, out, h, w)` for its head."""
        if self.skip is not None:
            skip = self.skip(backbone)
            ups = zip(self.up.values(), maps, strict=True)
            maps = [up(resize(m, skip.shape[-2:])) + skip for up, m in ups]
        grid = (len(maps), *maps[0].shape[-2:])
        x = join(maps)
        attended, scores = self.attention(part(self.norm1(x), grid), scores)
        x = x + join(attended)
        maps = part(x + self.mlp(self.norm2(x)), grid)
        together = self.norm_all(torch.cat(maps, dim=1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        shares = together.chunk(len(maps), dim=1)
        return maps, scores, [w(s) for w, s in zip(self.widen.values(), shares, strict=True)]


class Model(Network):
    """InvPT for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.backbone = Backbone.of(config, pretrained=pretrained)
        channels, features, dim = self.backbone.channels, config.features, config.dim
        self.features = nn.ModuleDict(
            {
                t: nn.Sequential(
                    *conv_norm_relu(channels[-1], channels[-1]),
                    *conv_norm_relu(channels[-1], features),
                )
                for t in tasks
            }
        )
        self.initial = nn.ModuleDict(
            {t: nn.Conv2d(features, spec.num_channels, 1) for t, spec in tasks.items()}
        )
        self.enter = nn.ModuleDict(
            {t: nn.Conv2d(features + s.num_channels, dim, 1) for t, s in tasks.items()}
        )
        # A plain transformer's earlier maps are the finer ones; all have stride 16.
        self.sources = (3, 1, 0) if self.backbone.is_plain else (3, 2, 1)
        self.stages = nn.ModuleList()
        for index, (stride, source) in enumerate(zip(STRIDES, self.sources, strict=True)):
            width = dim // 2**index
            enlarges = self.backbone.strides[source] == 2 * stride
            skip = _skip(channels[source], width, enlarges=enlarges) if index else None
            self.stages.append(Stage(width, dim, list(tasks), stride, skip))
        self.heads = nn.ModuleDict(
            {t: Head(dim, dim, s.num_channels, config.partially_dynamic) for t, s in tasks.items()}
        )
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        below, right = -height % KEY_STRIDE, -width % KEY_STRIDE
        image = F.pad(image, (0, right, 0, below)) if below or right else image
        rows, columns = image.shape[-2] // STRIDES[0], image.shape[-1] // STRIDES[0]
        backbone = self.backbone(image)
        x = resize(backbone[-1], (rows, columns))
        features = {t: layers(x) for t, layers in self.features.items()}
        initial = {t: layer(features[t]) for t, layer in self.initial.items()}
        maps = [e(torch.cat((features[t], initial[t]), 1)) for t, e in self.enter.items()]
        scores, by_stage = None, []
        for stage, source in zip(self.stages, self.sources, strict=True):
            maps, scores, shares = stage(maps, scores, backbone[source])
            by_stage.append([resize(m, (8 * rows, 8 * columns)) for m in shares])
        total = [reduce(torch.add, of_task) for of_task in zip(*by_stage, strict=True)]
        logits = {t: head(y) for (t, head), y in zip(self.heads.items(), total, strict=True)}
        if self.training:
            logits |= {f"{t}@initial": y for t, y in initial.items()}
        return {t: resize(y, image.shape[-2:])[..., :height, :width] for t, y in logits.items()}


def join(maps: Sequence[Tensor]) -> Tensor:
    """Put maps `(N, C, h, w)` of T tasks into one sequence of tokens `(N, T h w, C)`."""
    return torch.stack(list(maps), dim=2).flatten(2).transpose(1, 2)


def part(tokens: Tensor, grid: tuple[int, ...]) -> list[Tensor]:
    """Undo `join`; `grid` is `(T, h, w)`."""
    return list(tokens.transpose(1, 2).unflatten(2, grid).unbind(2))


def _enlarge(scores: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Double the resolution of queries, from `(N, heads, T h w / 4, keys)` to `(..., T h w, keys)`.

    Args:
        scores: Scores of the stage before.
        grid: T, h and w of the larger queries.
    """
    tasks, height, width = grid
    n, heads, _, keys = scores.shape
    maps = scores.reshape(n * heads * tasks, height // 2, width // 2, keys).permute(0, 3, 1, 2)
    return resize(maps, (height, width)).permute(0, 2, 3, 1).reshape(n, heads, -1, keys)


def _up(channels: int, dim: int) -> nn.Sequential:
    """Two dilated 3x3 convolutions behind a resize: `(N, channels, h, w) -> (N, dim, h, w)`."""
    layers: list[nn.Module] = []
    for c in (channels, dim):
        conv = nn.Conv2d(c, dim, 3, padding=2, dilation=2, bias=False)
        layers += [conv, nn.BatchNorm2d(dim), nn.ReLU()]
    return nn.Sequential(*layers)


def _skip(channels: int, dim: int, *, enlarges: bool) -> nn.Module:
    """A 3x3 convolution of a backbone's map, which may double its resolution."""
    if enlarges:
        return nn.ConvTranspose2d(channels, dim, 3, stride=2, padding=1, output_padding=1)
    return nn.Conv2d(channels, dim, 3, padding=1)
