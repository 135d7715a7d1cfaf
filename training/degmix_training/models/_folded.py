"""The family for inference: the same functions with fewer operations. Every rewrite is exact.

- Interaction: value, output and linear layer have nothing between them, so they are one.
- Embedding: a 1x1 convolution and a bilinear resize commute, so a scale is projected before it is
  resized where that is less work.
- Pixel queries (DeMT, DeMTG): keys go into the query and values into the output, so scores and sums
  are over the fused tokens themselves and no token is projected T times.
- Token queries (DeGMix): without softmax they are linear in the fused tokens' second moments. With
  `z` the normalised fused tokens and a column of ones beside them, `G = z^T z` is one small matrix
  for all tasks, and a query is `[norm(t), 1] @ R` with `R = sum_heads M_h G N_h`.

These need to know the model, so they live here and not in a graph pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degmix_training.models._decoder import Decoder, Embed, pad_to_multiple
from degmix_training.models._network import resize


def _fold_interaction(model: Decoder) -> None:
    *linears, norm = model.interact
    model.interact = nn.Sequential(_chain(*linears), norm)


def _hoist_embed(model: Decoder) -> None:
    if isinstance(model.embed, Embed):
        model.embed = FoldedEmbed(model.embed)


def _absorb_queries(model: Decoder) -> None:
    tasks = len(model.queries)
    for task, query in model.queries.items():
        model.queries[task] = FoldedPixelQuery(query, tasks)
    model.__class__ = _PixelDecoder


def _gram_queries(model: Decoder) -> None:
    for task, query in model.queries.items():
        model.queries[task] = FoldedTokenQuery(query)
    model.__class__ = _GramDecoder


Folds = Mapping[str, Callable[[Decoder], None]]
"""Rewrites by name, in the order in which a report applies them."""
PIXEL_FOLDS: Folds = {
    "fold_interaction": _fold_interaction,
    "hoist_embed": _hoist_embed,
    "absorb_queries": _absorb_queries,
}
"""The exact rewrites of DeMT and DeMTG."""
TOKEN_FOLDS: Folds = {
    "fold_interaction": _fold_interaction,
    "hoist_embed": _hoist_embed,
    "gram_queries": _gram_queries,
}
"""The exact rewrites of DeGMix."""


class _PixelDecoder(Decoder):
    own_folds = PIXEL_FOLDS

    def meet(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return states


class _GramDecoder(Decoder):
    own_folds = TOKEN_FOLDS
    has_places = False

    def share(self, fused: Tensor) -> Tensor:
        return second_moments(F.layer_norm(fused, fused.shape[-1:]))

    def meet(self, states: tuple[Tensor, ...]) -> Tensor:
        return functools.reduce(torch.add, states)


class FoldedPixelQuery(nn.Module):
    """A task's query over the fused tokens of its pixel: `(N, L, d), (N, T L, d) -> (N, L, d)`.

    Per head, `q . k = t W_q W_k^T . z`, and the sum of values is a sum of `z` before `W_v`. That
    costs `2 heads d^2` a token, in place of `(2 + 2 T) d^2`.
    """

    def __init__(self, query: Any, tasks: int) -> None:
        super().__init__()
        dim, heads = query.to_q.in_features, query.num_heads
        self.num_heads, self.tasks = heads, tasks
        self.absorbed = heads < 1 + tasks
        out = _chain(query.project, query.out)
        if self.absorbed:
            scale = (dim // heads) ** -0.5
            q, k, v = (getattr(query, f"to_{x}").weight.detach().double() for x in "qkv")
            bias, parts = query.to_q.bias.detach().double(), torch.arange(dim).chunk(heads)
            self.to_scores = _linear(
                torch.cat([scale * k[part].T @ q[part] for part in parts]),
                torch.cat([scale * k[part].T @ bias[part] for part in parts]),
                query.to_q.weight.dtype,
            )
            weight = out.weight.detach().double()
            self.out = _linear(
                torch.cat([weight[:, part] @ v[part] for part in parts], dim=1),
                # The shares sum to one, so the values' bias goes through whole.
                weight @ query.to_v.bias.detach().double() + out.bias.detach().double(),
                query.to_q.weight.dtype,
            )
        else:
            scale = (dim // heads) ** -0.5
            q = query.to_q
            self.to_scores = _linear(q.weight * scale, q.bias * scale, q.weight.dtype)
            self.to_k, self.to_v, self.out = query.to_k, query.to_v, out
        self.out_norm = query.out_norm

    def forward(self, task: Tensor, fused: Tensor | tuple[Tensor, ...]) -> Tensor:
        n, length, _ = task.shape
        q = self.to_scores(task).view(n, length, self.num_heads, -1)
        if isinstance(fused, tuple):
            pairs = [self._keys_and_values(one, 1) for one in fused]
            k, v = ([pair[index][0] for pair in pairs] for index in (0, 1))
        else:
            k, v = self._keys_and_values(fused, self.tasks)  # T of N L heads|1 hd|d
        # One product a task, and not a batch of matrices of T columns: no backend is fast at those.
        scores = torch.stack([(q * key).sum(-1) for key in k], dim=-1).softmax(-1)  # N L heads T
        parts = scores.unsqueeze(-2).unbind(-1)
        attended = sum(s * value for s, value in zip(parts, v, strict=True))
        return task + self.out_norm(self.out(attended.flatten(2)))

    def _keys_and_values(
        self, fused: Tensor, tasks: int
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        k, v = (fused, fused) if self.absorbed else (self.to_k(fused), self.to_v(fused))
        shape = (fused.shape[0], tasks, fused.shape[1] // tasks)
        shape += (1 if self.absorbed else self.num_heads, -1)
        return k.view(shape).unbind(1), v.view(shape).unbind(1)


class FoldedTokenQuery(nn.Module):
    """A task's query over the Gram matrix: `(N, L, d), (N, d + 1, d + 1) -> (N, L, d)`."""

    def __init__(self, query: Any) -> None:
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
        dtype = query.out.weight.dtype
        self.left = nn.Parameter(torch.stack(left).to(dtype))  # heads d+1 d+1
        self.right = nn.Parameter(torch.stack(right).to(dtype))  # heads d+1 d
        self.bias = nn.Parameter(bias.to(dtype))
        self.out_norm = query.out_norm
        self.dim = dim

    def forward(self, task: Tensor, gram: Tensor) -> Tensor:
        matrix = (self.left @ gram.unsqueeze(1) @ self.right).sum(1)  # N d+1 d
        weight, bias = matrix.split((self.dim, 1), dim=1)
        token = F.layer_norm(task, (self.dim,))
        return task + self.out_norm(token @ weight + (bias + self.bias))


class FoldedEmbed(nn.Module):
    """Four scales to `(N, d, h, w)`: resize, concatenate, embed; wide scales are hoisted."""

    def __init__(self, embed: Embed) -> None:
        super().__init__()
        patch, dim = embed.kernel_size[0], embed.out_channels
        weights = embed.weight.detach().split(embed.channels, dim=1)
        taps = patch * patch * dim
        self.patch = patch
        # Hoisted, a scale is projected at its own size to `taps` channels, and those are resized.
        self.wide = [
            index > 0 and (patch == 1 or count > taps) for index, count in enumerate(embed.channels)
        ]
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
        self.sum_taps: nn.Module = nn.Identity()
        if patch > 1:
            self.sum_taps = nn.Conv2d(taps, dim, patch, stride=patch, groups=dim, bias=False)
            one_hot = torch.eye(patch * patch).reshape(1, patch * patch, patch, patch)
            self.sum_taps.weight.data = one_hot.expand(dim, -1, -1, -1).contiguous()
            self.sum_taps.to(embed.weight.dtype)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        narrow = [m for m, wide in zip(maps, self.wide, strict=True) if not wide]
        wide = [m for m, wide in zip(maps, self.wide, strict=True) if wide]
        stacked = torch.cat([resize(m, size) for m in narrow], 1) if len(narrow) > 1 else narrow[0]
        embedded = self.narrow(pad_to_multiple(stacked, self.patch))
        for project, scale in zip(self.project, wide, strict=True):
            taps = pad_to_multiple(resize(project(scale), size), self.patch)
            embedded = embedded + self.sum_taps(taps)
        return embedded


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


def _chain(first: nn.Linear, *rest: nn.Linear) -> nn.Linear:
    """One linear layer for several in a row."""
    weight, bias = first.weight.detach().double(), first.bias.detach().double()
    for linear in rest:
        weight, bias = linear.weight.double() @ weight, linear.weight.double() @ bias
        bias = bias + linear.bias.double()
    return _linear(weight, bias, first.weight.dtype)


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight.data, linear.bias.data = weight.detach().to(dtype), bias.detach().to(dtype)
    return linear
