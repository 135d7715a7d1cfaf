"""DeGMix for inference: the same function with fewer operations. Every rewrite is exact.

- Fusion: value, output and linear layer have nothing between them, so they are one.
- Query: without softmax it is linear in the fused tokens' second moments. With `z` the normalised
fused
  tokens and a column of ones beside them, `G = z^T z` is one small matrix for all tasks, and a
  query is `[norm(t), 1] @ R` with `R = sum_heads M_h G N_h`: keys, values and their norms are gone.
- Embedding: a 1x1 convolution and a bilinear resize commute, so a scale with many channels is
projected
  to the patch's taps before it is resized.

These need to know the model, so they live here and not in a graph pass.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from degmix_training.models.degmix import Model, TaskQuery


class FoldedQuery(nn.Module):
    """A task query over the Gram matrix: `(N, L, d), (N, d + 1, d + 1) -> (N, L, d)`."""

    def __init__(self, query: TaskQuery) -> None:
        super().__init__()
        dim, heads = query.out.in_features, query.num_heads
        with torch.no_grad():
            q, k, v = (
                _affine(getattr(query, f"norm_{x}"), getattr(query, f"to_{x}")) for x in "qkv"
            )  # each (d + 1, d): from [normalised token, 1]
            out = query.out.weight.double() @ query.project.weight.double()  # d d
            scale = (dim // heads) ** -0.5
            left, right = [], []
            for head in torch.arange(dim).chunk(heads):
                left.append(scale * q[:, head] @ k[:, head].T)
                right.append(v[:, head] @ out[:, head].T)
            bias = query.out.weight.double() @ query.project.bias.double() + query.out.bias.double()
        self.left = nn.Parameter(torch.stack(left).float())  # heads d+1 d+1
        self.right = nn.Parameter(torch.stack(right).float())  # heads d+1 d
        self.bias = nn.Parameter(bias.float())
        self.out_norm = query.out_norm
        self.dim = dim

    def forward(self, task: Tensor, gram: Tensor) -> Tensor:
        """See the class."""
        matrix = (self.left @ gram.unsqueeze(1) @ self.right).sum(1)  # N d+1 d
        weight, bias = matrix.split((self.dim, 1), dim=1)
        token = F.layer_norm(task, (self.dim,))
        return task + self.out_norm(token @ weight + (bias + self.bias))


class FoldedEmbed(nn.Module):
    """Four scales to `(N, d, h, w)`: resize, concatenate, embed; wide scales are hoisted."""

    def __init__(self, embed: nn.Conv2d, channels: list[int]) -> None:
        super().__init__()
        patch, dim = embed.kernel_size[0], embed.out_channels
        weights = embed.weight.detach().split(channels, dim=1)
        taps = patch * patch * dim
        self.patch = patch
        self.wide = [index > 0 and count > taps for index, count in enumerate(channels)]
        narrow = torch.cat([w for w, wide in zip(weights, self.wide, strict=True) if not wide], 1)
        self.narrow = nn.Conv2d(narrow.shape[1], dim, patch, stride=patch)
        self.narrow.weight.data, self.narrow.bias = narrow.contiguous(), embed.bias
        self.project = nn.ModuleList()
        for weight, wide in zip(weights, self.wide, strict=True):
            if wide:  # (d, C, p, p) to (d p p, C, 1, 1)
                conv = nn.Conv2d(weight.shape[1], taps, 1, bias=False)
                conv.weight.data = weight.permute(0, 2, 3, 1).reshape(taps, -1, 1, 1).contiguous()
                self.project.append(conv)
        # Channel (c, i, j) of a projection counts at row i, column j of each patch.
        self.sum_taps = nn.Conv2d(taps, dim, patch, stride=patch, groups=dim, bias=False)
        one_hot = torch.eye(patch * patch).reshape(1, patch * patch, patch, patch)
        self.sum_taps.weight.data = one_hot.expand(dim, -1, -1, -1).contiguous()

    def forward(self, maps: list[Tensor]) -> Tensor:
        """See the class."""
        size = maps[0].shape[-2:]
        narrow = [m for m, wide in zip(maps, self.wide, strict=True) if not wide]
        wide = [m for m, wide in zip(maps, self.wide, strict=True) if wide]
        embedded = self.narrow(self._pad(torch.cat([resize(m, size) for m in narrow], 1)))
        for project, scale in zip(self.project, wide, strict=True):
            embedded = embedded + self.sum_taps(self._pad(resize(project(scale), size)))
        return embedded

    def _pad(self, stacked: Tensor) -> Tensor:
        below, right = (-side % self.patch for side in stacked.shape[-2:])
        return F.pad(stacked, (0, right, 0, below)) if below or right else stacked


class Folded(nn.Module):
    """The whole network, folded: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.backbone, self.mixers = model.backbone, model.mixers
        self.embed = FoldedEmbed(model.embed, model.backbone.channels)
        self.embed_norm = model.embed_norm
        *linears, norm = model.interact
        self.interact = nn.Sequential(_chain(linears), norm)
        self.queries = nn.ModuleDict({t: FoldedQuery(q) for t, q in model.queries.items()})
        self.gate, self.heads = model.gate, model.heads

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """See the class."""
        embedded = self.embed(self.backbone(image))
        size = embedded.shape[-2:]
        embedded = image_of(self.embed_norm(tokens_of(embedded)), size)
        mixed = {task: tokens_of(mixer(embedded)) for task, mixer in self.mixers.items()}
        fused = self.interact(torch.cat(list(mixed.values()), dim=1))
        gram = second_moments(F.layer_norm(fused, fused.shape[-1:]))
        logits = {}
        for task, query in self.queries.items():
            tokens = self.gate(query(mixed[task], gram))
            logits[task] = resize(self.heads[task](image_of(tokens, size)), image.shape[-2:])
        return logits


def second_moments(tokens: Tensor) -> Tensor:
    """`z^T z` of tokens `(N, L, d)` with a one beside each: `(N, d + 1, d + 1)`."""
    n, length, dim = tokens.shape
    products = tokens.transpose(1, 2) @ tokens
    sums = tokens.sum(1, keepdim=True)  # N 1 d
    count = torch.full((n, 1, 1), float(length), dtype=tokens.dtype, device=tokens.device)
    top = torch.cat((products, sums.transpose(1, 2)), dim=2)
    return torch.cat((top, torch.cat((sums, count), dim=2)), dim=1)


def _affine(norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`(d + 1, d)` double, on `[token, 1]`: the norm's affine part and the layer after it."""
    weight = linear.weight.double().T
    return torch.cat(
        (norm.weight.double().unsqueeze(1) * weight, norm.bias.double() @ weight[None])
    )


def _chain(linears: list[nn.Module]) -> nn.Linear:
    """One linear layer for several in a row."""
    first, *rest = linears
    weight, bias = first.weight.detach().double(), first.bias.detach().double()
    for linear in rest:
        weight, bias = linear.weight.double() @ weight, linear.weight.double() @ bias
        bias = bias + linear.bias.double()
    folded = nn.Linear(weight.shape[1], weight.shape[0])
    folded.weight.data, folded.bias.data = weight.float(), bias.float()
    return folded


def tokens_of(image: Tensor) -> Tensor:
    """`(N, d, h, w) -> (N, h w, d)`."""
    return image.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, size: torch.Size) -> Tensor:
    """`(N, h w, d) -> (N, d, h, w)`."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *size)


def resize(image: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
