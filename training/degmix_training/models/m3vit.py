"""M3ViT: a vision transformer whose tokens choose experts, for each task anew.

Liang et al., "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with
Model-Accelerator Co-design", NeurIPS 2022 (arXiv 2210.14793). Blocks 1, 3, 5 ... have a mixture in
place of their MLP (`_moe.py`):

    image -> tokens -> block 0 (MLP) -> block 1 (mixture) -> block 2 (MLP) -> ... -> tokens_i
    logits_i = decoder_i(LayerNorm_i(tokens_i))   three convolutions, each followed by a resize

Except with a `single` router, tasks share no token from the first mixture on. What comes before is
computed once; from there tasks are rows of the batch: the same weights, larger products.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from degmix_edge.errors import DegmixWarning
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import PLAIN_STRIDE, plain_transformer
from degmix_training.models._moe import FixedExperts, Mixture, MoeSettings
from degmix_training.models._network import (
    Head,
    HeadSettings,
    Network,
    conv_norm_relu,
    resize,
)
from degmix_training.models._tam import Distillation


class Config(MoeSettings, HeadSettings):
    """Sizes of M3ViT; the defaults are those for NYUD-v2 and PASCAL-Context (ViT-S).

    `MoeSettings` has the sizes of the mixtures.

    Attributes:
        backbone: A plain vision transformer by its timm name.
        height, width: Input size in pixels, which decides the size of the position table; training
            fills them in.
        blocks, dim, num_heads: Sizes of the transformer; None is the backbone's. The public code
            has 12 heads where DeiT-S has 6.
        balance: Weight of the loss that spreads tokens over experts.
        head_width: Channels of a task's decoder.
        distil: Train with the distillation between tasks (TAM), which inference does not have.
        shared_norm: Whether one final LayerNorm, the transformer's, serves all tasks. Published: a
            LayerNorm in each task's decoder. Checkpoints of the first format share one.
    """

    backbone: str = "deit_small_patch16_224"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    blocks: int | None = Field(None, ge=2)
    dim: int | None = Field(None, gt=0)
    num_heads: int | None = Field(None, gt=0)
    balance: float = Field(0.01, ge=0)
    head_width: int = Field(256, gt=0)
    distil: bool = True
    shared_norm: bool = False


class MoeTransformer(nn.Module):
    """`(N, 3, H, W)` to the last tokens `(T, N, h w, d)`; T is 1 with a `single` router.

    The image's sides are multiples of the patch's side.
    """

    def __init__(self, config: Config, tasks: int, *, pretrained: bool) -> None:
        super().__init__()
        self.name = config.backbone
        sizes = {"depth": config.blocks, "embed_dim": config.dim, "num_heads": config.num_heads}
        options: dict[str, Any] = {k: v for k, v in sizes.items() if v is not None}
        size = (_padded(config.height), _padded(config.width))
        options["img_size"] = size
        self.network = plain_transformer(config.backbone, options, pretrained)
        if not config.shared_norm:
            self.network.norm = nn.Identity()
        dim = self.network.embed_dim
        self.channels = [dim]
        self.mixtures = nn.ModuleDict()
        for index, block in enumerate(self.network.blocks):
            if index % 2:
                block.mlp = nn.Identity()
                kept = config.kept_experts and config.kept_experts[index // 2]
                self.mixtures[str(index)] = Mixture(dim, config, tasks, kept)

    def forward(self, image: Tensor) -> Tensor:
        net = self.network
        x = net.patch_embed.proj(image)
        grid = tuple(x.shape[-2:])
        x = x.flatten(2).transpose(1, 2)
        prefix = net.num_prefix_tokens
        x = torch.cat((net.cls_token.expand(len(x), -1, -1), x), dim=1) + self._positions(grid)
        x = x.unsqueeze(0)  # tasks share everything up to the first mixture
        for index, block in enumerate(net.blocks):
            rows = x.flatten(0, 1)
            rows = rows + block.drop_path1(block.ls1(block.attn(block.norm1(rows))))
            x = rows.view(x.shape)
            inner = block.norm2(x)
            made = self.mixtures[str(index)](inner) if index % 2 else block.mlp(inner)
            x = x + block.drop_path2(block.ls2(made))
        return net.norm(x[:, :, prefix:])

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        """The position table for a grid of patches, interpolated if it is not the trained grid."""
        net = self.network
        trained = tuple(net.patch_embed.grid_size)
        if grid == trained:
            return net.pos_embed
        warnings.warn(
            f"degmix m3vit: its position table is for {trained[0]}x{trained[1]} patches, resized "
            f"to {grid[0]}x{grid[1]} (bilinear); accuracy at this size was not trained",
            category=DegmixWarning,
            stacklevel=2,
        )
        return resample_abs_pos_embed(
            net.pos_embed,
            list(grid),
            list(trained),
            num_prefix_tokens=net.num_prefix_tokens,
            interpolation="bilinear",
        )


class TaskDecoder(nn.Module):
    """Tokens `(N, h w, d)` to three maps (`levels`) and logits at 8h x 8w (`logits`)."""

    def __init__(self, dim: int, config: Config, spec: TaskSpec) -> None:
        super().__init__()
        width = config.head_width
        self.norm = nn.Identity() if config.shared_norm else nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.stages = nn.ModuleList(
            nn.Sequential(*conv_norm_relu(channels, width)) for channels in (dim, width, width)
        )
        self.head = Head(width, width, spec.num_channels, config.partially_dynamic)

    def levels(self, tokens: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Compute the maps `(N, head_width, 2h, 2w)`, `(..., 4h, 4w)` and `(..., 8h, 8w)`."""
        x = self.norm(tokens).transpose(1, 2).unflatten(2, grid)
        maps = []
        for stage in (*self.stages, self.head.hidden):
            x = stage(x)
            maps.append(x)
            if len(maps) <= len(self.stages):
                x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))
        return maps[1:]

    def logits(self, levels: list[Tensor]) -> Tensor:
        """Compute the logits `(N, num_channels, 8h, 8w)` from the last of `levels`."""
        return self.head[3](levels[-1])


class Model(Network):
    """M3ViT for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.config, self.rows = config, list(tasks)
        self.backbone = MoeTransformer(config, len(tasks), pretrained=pretrained)
        dim = self.backbone.channels[0]
        self.decoders = nn.ModuleDict({t: TaskDecoder(dim, config, s) for t, s in tasks.items()})
        levels = 3 if config.distil and len(tasks) > 1 else 0
        self.distillations = nn.ModuleList(
            Distillation(config.head_width, tasks) for _ in range(levels)
        )

    @property
    def folds(self) -> tuple[str, ...]:
        """All exact rewrites in order; routers that have faded out can be dropped."""
        # On the meta device, where a model is only counted, no value is known.
        faded = all(m.faded.device.type != "meta" and m.faded == 1 for m in self._mixtures())
        return (*(["drop_routers"] if faded else []), *super().folds)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[-2:]
        size = (_padded(height), _padded(width))
        tokens = self.backbone(F.pad(image, (0, size[1] - width, 0, size[0] - height)))
        grid = (size[0] // PLAIN_STRIDE, size[1] // PLAIN_STRIDE)
        levels = {
            task: decoder.levels(tokens[self.rows.index(task) if len(tokens) > 1 else 0], grid)
            for task, decoder in self.decoders.items()
        }
        outputs = {}
        for task, decoder in self.decoders.items():
            logits = resize(decoder.logits(levels[task]), size)
            outputs[task] = logits[..., :height, :width]
        if self.training:
            for index, distil in enumerate(self.distillations):
                side = distil({task: maps[index] for task, maps in levels.items()})
                for task, logits in side.items():
                    logits = resize(logits, size)[..., :height, :width]
                    outputs[f"{task}@distil{index}"] = logits
            if self.config.balance:
                uneven = torch.stack([m.uneven for m in self._mixtures()]).sum()
                outputs["@balance"] = self.config.balance * uneven
        return outputs

    def keep(self, tasks: Sequence[str]) -> Network:
        # Tasks are rows of the batch, which no graph pass can see.
        kept = copy.deepcopy(self).eval()
        indices = [index for index, task in enumerate(self.rows) if task in tasks]
        kept.rows = [self.rows[index] for index in indices]
        kept.decoders = nn.ModuleDict({task: kept.decoders[task] for task in kept.rows})
        kept.distillations = nn.ModuleList()
        for mixture in kept._mixtures():
            mixture.keep(indices)
        return kept

    def apply_fold(self, name: str) -> None:
        if name != "drop_routers":
            super().apply_fold(name)
        for index, mixture in self.backbone.mixtures.items():
            self.backbone.mixtures[index] = FixedExperts(mixture)

    def _mixtures(self) -> list[Any]:
        return [m for m in self.backbone.mixtures.values() if isinstance(m, Mixture)]


NORM_EPSILON = 1e-6


def _padded(side: int) -> int:
    return -(-side // PLAIN_STRIDE) * PLAIN_STRIDE
