"""M3ViT: a vision transformer whose tokens choose experts, for each task anew.

Liang et al., "M3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with
Model-Accelerator Co-design", NeurIPS 2022 (arXiv 2210.14793). Blocks 1, 3, 5 ... have a mixture in
place of their MLP:

    p = softmax(x W_task),   y = sum over the K largest p_e of p_e f_e(x)      not divided again
    f_e = Linear(GELU(Linear(x))), d wide: K = 4 of them cost what the MLP they replace costs

`router`: `multi_gate` has a W a task (the paper's best), `task_conditioned` one W over the token
and an embedding of the task, `single` one W for all tasks. But for `single`, tasks share no token
from the first mixture on. What comes before is computed once, and then tasks are rows of the batch:
the same weights, larger products.

The experts lie side by side in two matrices. In an exported graph every expert is computed and
those not chosen are masked, which is static; on the CPU the pass `lower_moe` gathers tokens.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from degmix_edge.errors import ConfigError
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import create
from degmix_training.models._network import (
    Head,
    HeadSettings,
    Network,
    conv_norm_relu,
    resize,
)


class Config(HeadSettings):
    """Sizes of M3ViT; the defaults are those for NYUD-v2 and PASCAL-Context (ViT-S).

    Attributes:
        backbone: A plain vision transformer by its timm name.
        height, width: Of the input in pixels: sizes of the position table; training fills them in.
        blocks, dim, num_heads: Of the transformer; None is the backbone's. The public code has 12
            heads where DeiT-S has 6.
        experts: In each mixture.
        top_k: Experts that a token uses.
        expert_dim: Hidden units of an expert; None is the tokens' width.
        router: See the module.
        noise: Standard deviation of what training adds to the routers' scores, times the number of
            experts; the published runs have none.
        balance: Weight of the loss that spreads tokens over experts.
        head_width: Channels of a task's decoder.
        distil: Train with the distillation between tasks (TAM), which inference does not have.
        kept_experts: Experts left in each mixture once `experts.prune` has removed some.
        fade: Share of training at its end over which routers fade out: each task ends with the
            same K experts for every token, which is an ordinary MLP. 0 keeps routers.
    """

    backbone: str = "deit_small_patch16_224"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    blocks: int | None = Field(None, ge=2)
    dim: int | None = Field(None, gt=0)
    num_heads: int | None = Field(None, gt=0)
    experts: int = Field(16, ge=2)
    top_k: int = Field(4, ge=1)
    expert_dim: int | None = Field(None, gt=0)
    router: Literal["single", "multi_gate", "task_conditioned"] = "multi_gate"
    noise: float = Field(0.0, ge=0)
    balance: float = Field(0.01, ge=0)
    head_width: int = Field(256, gt=0)
    distil: bool = True
    kept_experts: tuple[int, ...] | None = None
    fade: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _enough_experts(self) -> Config:
        if self.experts < self.top_k:
            raise ValueError(f"{self.experts} experts, expected at least top_k = {self.top_k}")
        left = min(self.kept_experts or (self.experts,))
        if left < self.top_k:
            raise ValueError(f"{left} experts left, expected at least top_k = {self.top_k}")
        return self


class Router(nn.Module):
    """Tokens `(R, N, L, d)` to probabilities `(T, N, L, E)`; R is 1, or T once tasks have rows.

    `single` has T = 1. Always FP32: in 16 bits one token in a thousand chooses other experts.
    """

    EMBEDDING = 64

    def __init__(self, dim: int, config: Config, tasks: int) -> None:
        super().__init__()
        self.noise = config.noise / config.experts
        count = tasks if config.router == "multi_gate" else 1
        self.weight = nn.Parameter(torch.empty(count, dim, config.experts))
        nn.init.trunc_normal_(self.weight, std=dim**-0.5)
        self.embed = None
        if config.router == "task_conditioned":
            self.register_buffer("one_hot", torch.eye(tasks), persistent=False)
            self.embed = nn.Sequential(
                nn.Linear(tasks, self.EMBEDDING),
                nn.ReLU(),
                nn.Linear(self.EMBEDDING, self.EMBEDDING),
                nn.Linear(self.EMBEDDING, config.experts, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._probabilities(x.float())
        return self._probabilities(x)

    def _probabilities(self, x: Tensor) -> Tensor:
        rows, images, tokens, dim = x.shape
        scores = x.reshape(rows, images * tokens, dim) @ self.weight  # one product a task
        if self.embed is not None:
            scores = scores + self.embed(self.one_hot).unsqueeze(1)
        if self.training and self.noise:
            scores = scores + self.noise * torch.randn_like(scores)
        return scores.softmax(-1).unflatten(1, (images, tokens))

    def keep(self, indices: list[int]) -> None:
        """Only the tasks at `indices`."""
        if self.embed is not None:
            self.one_hot = self.one_hot[indices]
        elif len(self.weight) > 1:
            self.weight.data = self.weight.data[indices]


class Mixture(nn.Module):
    """Tokens `(R, N, L, d)` to `(T, N, L, d)`: see `Router` and the module.

    Attributes:
        uneven: After a training step: the squared coefficients of variation of what experts get.
    """

    def __init__(self, dim: int, config: Config, tasks: int, kept: int | None = None) -> None:
        super().__init__()
        self.experts = config.experts if kept is None else kept
        self.top_k, self.fade = config.top_k, config.fade
        hidden = config.expert_dim or dim
        self.router = Router(dim, config, tasks)
        self.expand = nn.Linear(dim, self.experts * hidden)
        self.contract = nn.Linear(self.experts * hidden, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.experts, dim))
        nn.init.uniform_(self.contract.weight, -(hidden**-0.5), hidden**-0.5)
        rows = tasks if config.router != "single" else 1
        self.register_buffer("usage", torch.full((rows, self.experts), 1 / self.experts))
        self.pruned = kept is not None
        if self.pruned:  # which of the router's experts are left, and for which tasks
            self.register_buffer("kept", torch.arange(self.experts))
            self.register_buffer("allowed", torch.ones(rows, self.experts))
        self.register_buffer("faded", torch.tensor(0.0))
        self.uneven: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        gates = self.gates(self.router(x))
        if torch.compiler.is_compiling() or x.device.type == "meta":
            return self.masked(x, gates.to(x.dtype))
        return self.gathered(x, gates.to(x.dtype))

    def gates(self, probabilities: Tensor) -> Tensor:
        """The K largest of `(T, N, L, E)`, zero elsewhere."""
        if self.pruned:  # after the softmax: a token of kept experts keeps its very numbers
            probabilities = probabilities.index_select(-1, self.kept)
            probabilities = probabilities * self.allowed[:, None, None]
        kept = probabilities.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(probabilities).scatter(-1, kept.indices, kept.values)
        if self.training:
            importance = gates.sum((1, 2))
            load = (gates > 0).to(gates.dtype).sum((1, 2))
            self.uneven = (_variation(importance) + _variation(load)).mean()
            if self.fade:
                self.usage.lerp_(gates.detach().mean((1, 2)), 0.01)
        if self.fade:
            gates = torch.lerp(gates, self.fixed_gates()[:, None, None], self.faded)
        return gates

    def fixed_gates(self) -> Tensor:
        """What routers fade to: each task's K most used experts, with all of its gates' sum."""
        kept = self.usage.topk(self.top_k, dim=-1)
        values = kept.values / kept.values.sum(-1, True) * self.usage.sum(-1, True)
        return torch.zeros_like(self.usage).scatter(-1, kept.indices, values)

    def advance(self, progress: float) -> None:
        """Routers fade out over the last share of training."""
        if self.fade:
            self.faded.fill_(min(1.0, max(0.0, (progress - 1 + self.fade) / self.fade / 0.9)))

    def masked(self, x: Tensor, gates: Tensor) -> Tensor:
        """Every expert for every token, and a mask: two large products, all shapes static.

        Exact, since the second layer is linear. Tasks that share their tokens share the first one.
        """
        tasks, images, tokens, experts = gates.shape
        hidden = F.gelu(self.expand(x)).unflatten(-1, (experts, -1))  # R N L E h
        chosen = (hidden * gates.unsqueeze(-1)).flatten(-2)  # T N L (E h)
        return self.contract(chosen) + gates @ self.bias

    def gathered(self, x: Tensor, gates: Tensor) -> Tensor:
        """Each expert for its own tokens: the fewest products; shapes depend on the image."""
        tasks, images, tokens, experts = gates.shape
        flat, shares = x.reshape(-1, x.shape[-1]), gates.reshape(-1, experts)
        out = flat.new_zeros(len(shares), flat.shape[1])
        first = self.expand.weight.chunk(experts)
        biases = self.expand.bias.chunk(experts)
        second = self.contract.weight.chunk(experts, dim=1)
        for expert in range(experts):
            rows = shares[:, expert].nonzero().squeeze(1)
            # Tasks that share their tokens read the same rows.
            hidden = F.gelu(F.linear(flat[rows % len(flat)], first[expert], biases[expert]))
            made = F.linear(hidden, second[expert]) + self.bias[expert]
            out = out.index_add(0, rows, (made * shares[rows, expert, None]).to(out.dtype))
        return out.view(tasks, images, tokens, -1)

    def keep(self, indices: list[int]) -> None:
        """Only the tasks at `indices`."""
        self.router.keep(indices)
        if len(self.usage) > 1:
            self.usage = self.usage[indices]
            if self.pruned:
                self.allowed = self.allowed[indices]


class FixedExperts(nn.Module):
    """A mixture whose router has faded out: K experts a task, as one MLP a task."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        gates = mixture.fixed_gates()  # T E
        chosen = gates.topk(mixture.top_k, dim=-1).indices.sort(-1).values  # T K
        first = mixture.expand.weight.detach().unflatten(0, (mixture.experts, -1))  # E h d
        biases = mixture.expand.bias.detach().unflatten(0, (mixture.experts, -1))
        second = mixture.contract.weight.detach().T.unflatten(0, (mixture.experts, -1))  # E h d
        second = second * gates.unsqueeze(-1).unsqueeze(-1)  # T E h d
        rows = torch.arange(len(gates)).unsqueeze(1)
        self.expand = nn.Parameter(first[chosen].flatten(1, 2).transpose(1, 2).contiguous())
        self.expand_bias = nn.Parameter(biases[chosen].flatten(1).unsqueeze(1))  # T 1 Kh
        self.contract = nn.Parameter(second[rows, chosen].flatten(1, 2).contiguous())  # T Kh d
        self.bias = nn.Parameter((gates @ mixture.bias.detach()).unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """See `Mixture`."""
        rows, images, tokens, dim = x.shape
        x = x.reshape(rows, images * tokens, dim)
        hidden = F.gelu(x @ self.expand + self.expand_bias)
        return (hidden @ self.contract + self.bias).view(-1, images, tokens, dim)


class MoeTransformer(nn.Module):
    """`(N, 3, H, W)` to the last tokens `(T, N, d, h, w)`; T is 1 with a `single` router."""

    def __init__(self, config: Config, tasks: int, *, pretrained: bool) -> None:
        super().__init__()
        self.name = config.backbone
        sizes = {"depth": config.blocks, "embed_dim": config.dim, "num_heads": config.num_heads}
        options = {key: value for key, value in sizes.items() if value is not None}
        size = (_padded(config.height), _padded(config.width))
        self.network = _plain(config.backbone, size, options, pretrained)
        dim = self.network.embed_dim
        self.channels = [dim]
        self.mixtures = nn.ModuleDict()
        for index, block in enumerate(self.network.blocks):
            if index % 2:
                block.mlp = nn.Identity()
                kept = config.kept_experts and config.kept_experts[index // 2]
                self.mixtures[str(index)] = Mixture(dim, config, tasks, kept)

    def forward(self, image: Tensor) -> Tensor:
        """See the class; the image's sides are multiples of the patch's."""
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
        x = net.norm(x)[:, :, prefix:]
        return x.transpose(2, 3).unflatten(3, grid)

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        """The position table for a grid of patches; another one than trained is interpolated."""
        net = self.network
        trained = tuple(net.patch_embed.grid_size)
        if grid == trained:
            return net.pos_embed
        warnings.warn(
            f"degmix m3vit: its position table is for {trained[0]}x{trained[1]} patches, resized "
            f"to {grid[0]}x{grid[1]} (bilinear); accuracy at this size was not trained",
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
    """Tokens `(N, d, h, w)` to logits at 8h x 8w; `levels` gives the three maps in between."""

    def __init__(self, dim: int, config: Config, spec: TaskSpec) -> None:
        super().__init__()
        width = config.head_width
        self.stages = nn.ModuleList(
            nn.Sequential(*conv_norm_relu(channels, width)) for channels in (dim, width, width)
        )
        self.head = Head(width, width, spec.num_channels, config.partially_dynamic)

    def levels(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for stage in self.stages:
            x = stage(x)
            x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            found.append(x)
        return found


class Distillation(nn.Module):
    """Distillation between tasks at one level (TAM), in training only.

    A map over all tasks' features gives each task its share of the image; a small encoder and
    decoder makes an attention of it; side logits are under the task's loss.
    """

    def __init__(self, width: int, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        half, quarter = max(1, width // 2), max(1, width // 4)
        self.first = (len(tasks) + 1) // 2
        self.balance = nn.Conv2d(width * len(tasks), width, 3, padding=1)
        self.attend = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Conv2d(width, half, 3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(half, quarter, 3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.ConvTranspose2d(quarter, half, 4, stride=2, padding=1),
                    nn.ReLU(),
                    nn.ConvTranspose2d(half, width, 4, stride=2, padding=1),
                )
                for task in tasks
            }
        )
        self.side = nn.ModuleDict(
            {t: nn.Conv2d(width, s.num_channels, 1) for t, s in tasks.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`{task: (N, C, h, w)}` to side logits."""
        share = self.balance(torch.cat(list(features.values()), dim=1)).sigmoid()
        found = {}
        for index, (task, x) in enumerate(features.items()):
            mine = x * (share if index < self.first else 1 - share)
            attention = resize(self.attend[task](mine), x.shape[-2:]).sigmoid()
            found[task] = self.side[task](x * (1 + attention))
        return found


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
        """See `Network`; routers that have faded out can go."""
        faded = all(mixture.faded == 1 for mixture in self._mixtures())
        return (*(["drop_routers"] if faded else []), *super().folds)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        height, width = image.shape[-2:]
        size = (_padded(height), _padded(width))
        tokens = self.backbone(F.pad(image, (0, size[1] - width, 0, size[0] - height)))
        levels = {
            task: decoder.levels(tokens[self.rows.index(task) if len(tokens) > 1 else 0])
            for task, decoder in self.decoders.items()
        }
        outputs = {}
        for task, decoder in self.decoders.items():
            logits = resize(decoder.head(levels[task][-1]), size)
            outputs[task] = logits[..., :height, :width]
        if self.training:
            for index, distil in enumerate(self.distillations):
                for task, logits in distil(
                    {t: found[index] for t, found in levels.items()}
                ).items():
                    logits = resize(logits, size)[..., :height, :width]
                    outputs[f"{task}@distil{index}"] = logits
            if self.config.balance:
                uneven = torch.stack([m.uneven for m in self._mixtures()]).sum()
                outputs["@balance"] = self.config.balance * uneven
        return outputs

    def keep(self, tasks: Sequence[str]) -> Network:
        """See `Network`: the rows of the batch are tasks, which no graph pass can see."""
        kept = copy.deepcopy(self).eval()
        indices = [index for index, task in enumerate(self.rows) if task in tasks]
        kept.rows = [self.rows[index] for index in indices]
        kept.decoders = nn.ModuleDict({task: kept.decoders[task] for task in kept.rows})
        kept.distillations = nn.ModuleList()
        for mixture in kept._mixtures():
            mixture.keep(indices)
        return kept

    def apply_fold(self, name: str) -> None:
        """See `Network`."""
        if name != "drop_routers":
            super().apply_fold(name)
        for index, mixture in self.backbone.mixtures.items():
            self.backbone.mixtures[index] = FixedExperts(mixture)

    def _mixtures(self) -> list[Any]:
        return [m for m in self.backbone.mixtures.values() if isinstance(m, Mixture)]


PATCH = 16


def _padded(side: int) -> int:
    return -(-side // PATCH) * PATCH


def _plain(
    name: str, size: tuple[int, int], options: dict[str, Any], pretrained: bool
) -> VisionTransformer:
    """A plain vision transformer of timm.

    Raises:
        ConfigError: It is none, or has no such size.
    """
    network = create(name, {"img_size": size, "num_classes": 0, **options}, pretrained)
    plain = isinstance(network, VisionTransformer) and network.cls_token is not None
    if not plain or network.patch_embed.patch_size != (PATCH, PATCH):
        raise ConfigError(
            f"m3vit: backbone {name!r} is no plain vision transformer with a class token and "
            f"patches of {PATCH}; expected one such as deit_small_patch16_224"
        )
    return network


def _variation(x: Tensor) -> Tensor:
    """The squared coefficient of variation over experts."""
    return x.var(-1, unbiased=False) / (x.mean(-1).square() + 1e-10)
