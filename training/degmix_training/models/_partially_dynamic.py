"""Partially dynamic convolution: part of a kernel depends on the image, part does not.

He et al., "PAD-Net: An Efficient Framework for Dynamic Networks", ACL 2023 (arXiv 2211.05528), over
dynamic convolution (Chen et al., CVPR 2020):

    W(x) = l_d M * sum_i a_i(x) W_i + l_s (1 - M) * W_s,    l_d = 2 sigmoid(phi), l_s = 2 - l_d
    a(x) = softmax(MLP(mean over pixels of x) / temperature)

Iterative mode partition decides M before training: entries are scored on a few batches, the lowest
become static, over several rounds. The defaults are those of the public code: an unstructured mask
at random, which buys no speed. With `structured`, whole output channels are dynamic or static, and
the static half is an ordinary convolution.

No dense-prediction result is published for it: what it gives in a head here has to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from degmix_edge.config import Settings


class PartialSettings(Settings):
    """Settings that all partially dynamic convolutions of a network share.

    Attributes:
        kernels: Dynamic kernels that are mixed.
        reduction: Factor by which the attention reduces its channels.
        share: Share of the kernel entries (or output channels) that stay dynamic.
        structured: Whole output channels are dynamic or static.
        score: `snip` is the magnitude of gradient times mask (Lee et al., ICLR 2019), `magnitude`
            that of the dynamic weights.
        init: `published` draws kernels from a normal distribution of variance 2 / (k^2 O), and the
            attention's two layers with variances of 2 over their numbers of outputs; `uniform` is
            PyTorch's own.
        rounds: Number of rounds of the partition.
        schedule: How the dynamic share falls from 1 over the rounds.
        temperature: Temperature of the attention's softmax at the start; it falls linearly to 1.
        anneal: Share of training after which it is 1; published: 15 of 90 epochs.
    """

    kernels: int = Field(4, ge=2)
    reduction: int = Field(16, gt=0)
    share: float = Field(0.5, gt=0, lt=1)
    structured: bool = False
    score: Literal["snip", "magnitude", "random"] = "random"
    init: Literal["published", "uniform"] = "published"
    rounds: int = Field(3, gt=0)
    schedule: Literal["exponential", "linear"] = "exponential"
    temperature: float = Field(30.0, ge=1)
    anneal: float = Field(1 / 6, gt=0, le=1)


class KernelAttention(nn.Module):
    """`(N, C, H, W)` to the kernels' shares `(N, k)`, which sum to one."""

    def __init__(self, channels: int, settings: PartialSettings) -> None:
        super().__init__()
        hidden = max(1, channels // settings.reduction)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, settings.kernels)
        self.register_buffer("temperature", torch.tensor(settings.temperature))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.excite(F.relu(self.squeeze(x.mean((2, 3)))))
        return (scores / self.temperature).softmax(1)


class PartiallyDynamicConv2d(nn.Module):
    """`(N, C, H, W) -> (N, O, H, W)`, stride 1, same size, no bias."""

    def __init__(self, channels: int, outputs: int, kernel: int, settings: PartialSettings) -> None:
        super().__init__()
        self.settings, self.padding = settings, kernel // 2
        shape = (outputs, channels, kernel, kernel)
        self.attention = KernelAttention(channels, settings)
        # All kernels, one below the other: a weight of four axes can be channels-last.
        self.dynamic = nn.Parameter(torch.empty(settings.kernels * outputs, *shape[1:]))
        self.static = nn.Parameter(torch.empty(shape))
        self.phi = nn.Parameter(torch.zeros(()))
        self._initialise(kernel * kernel * outputs)
        # All dynamic until `partition` has run.
        mask = torch.ones(outputs, 1, 1, 1) if settings.structured else torch.ones(shape)
        self.register_buffer("mask", mask)
        self.register_buffer("partitioned", torch.tensor(False))

    def _initialise(self, spread: int) -> None:
        """Draw the weights as `init` says; `spread` is the number of outputs times positions."""
        if self.settings.init == "uniform":
            for weight in (*self.dynamic.chunk(self.settings.kernels), self.static):
                nn.init.kaiming_uniform_(weight, a=5**0.5)
            return
        layers = (self.attention.squeeze, self.attention.excite)
        widths = [(layer.weight, layer.out_features) for layer in layers]
        for weight, count in [(self.dynamic, spread), (self.static, spread), *widths]:
            nn.init.normal_(weight, std=(2 / count) ** 0.5)
        nn.init.zeros_(self.attention.excite.bias)

    def forward(self, x: Tensor) -> Tensor:
        # One convolution with a kernel for each row of the batch: rows are its groups.
        dynamic, static = self.parts()
        rows, channels, height, width = x.shape
        mixed = (self.attention(x) @ dynamic.flatten(1)).view(rows, *static.shape) + static
        weight = mixed.flatten(0, 1)
        out = F.conv2d(
            x.reshape(1, rows * channels, height, width), weight, padding=self.padding, groups=rows
        )
        return out.view(rows, -1, height, width)

    def parts(self) -> tuple[Tensor, Tensor]:
        """Masked and scaled: dynamic `(k, O, C, kH, kW)` and static `(O, C, kH, kW)`."""
        scale = 2 * self.phi.sigmoid()
        dynamic = self.dynamic.unflatten(0, (self.settings.kernels, -1))
        return scale * self.mask * dynamic, (2 - scale) * (1 - self.mask) * self.static

    def advance(self, progress: float) -> None:
        """The temperature falls linearly to 1."""
        first, anneal = self.settings.temperature, self.settings.anneal
        self.attention.temperature.fill_(max(1.0, first - (first - 1) * progress / anneal))

    def folded(self) -> tuple[nn.Module, Tensor]:
        """The same convolution as static ones, and the order of its output channels.

        The mask, both scales and the static kernel are gone: where the mask is unstructured, the
        static part is in every kernel, exactly, since shares sum to one.
        """
        with torch.no_grad():
            dynamic, static = self.parts()
            order = torch.arange(len(static), device=static.device)
            if not self.settings.structured:
                return MixedConv2d(self.attention, dynamic + static, None), order
            chosen = self.mask.flatten() > 0
            order = torch.cat((order[chosen], order[~chosen]))
            return MixedConv2d(self.attention, dynamic[:, chosen], static[~chosen]), order


class MixedConv2d(nn.Module):
    """Convolutions mixed by shares of the image, and after them channels of an ordinary one.

    The form that every backend runs at any batch size, and INT8 too; the pass `fold_conv_mixture`
    makes one convolution with a run-time kernel of the mixture where that is less work.
    """

    def __init__(self, attention: nn.Module, kernels: Tensor, static: Tensor | None) -> None:
        super().__init__()
        self.attention = attention
        self.convs = nn.ModuleList(_conv(kernel) for kernel in kernels if len(kernel))
        self.static = _conv(static) if static is not None and len(static) else None

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        if len(self.convs):
            shares = self.attention(x)[..., None, None].split(1, dim=1)
            terms = [conv(x) * share for conv, share in zip(self.convs, shares, strict=True)]
            mixed = terms[0]
            for term in terms[1:]:
                mixed = mixed + term
            parts.append(mixed)
        if self.static is not None:
            parts.append(self.static(x))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _conv(weight: Tensor) -> nn.Conv2d:
    outputs, channels, kernel, _ = weight.shape
    conv = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False)
    conv.weight.data = weight.detach().clone()
    return conv


def partition(
    layers: Sequence[PartiallyDynamicConv2d], losses: Sequence[Callable[[], Tensor]]
) -> None:
    """Iterative mode partition: decide which entries stay dynamic, all layers ranked together.

    Does nothing to layers that have been partitioned, as those of a resumed run.

    Args:
        layers: All of a network; they share their settings.
        losses: Each computes the loss of one batch; without any, `snip` is `random`.
    """
    layers = [layer for layer in layers if not layer.partitioned]
    if not layers:
        return
    settings = layers[0].settings
    for round_ in range(1, settings.rounds + 1):
        done = round_ / settings.rounds
        keep = settings.share**done
        if settings.schedule == "linear":
            keep = 1 - (1 - settings.share) * done
        scores = _scores(layers, losses)
        # What became static in an earlier round stays so.
        ranked = torch.cat([s.masked_fill(layer.mask == 0, -1).flatten() for layer, s in scores])
        dynamic = torch.zeros_like(ranked)
        dynamic[
            ranked.argsort(descending=True, stable=True)[: max(1, round(keep * len(ranked)))]
        ] = 1
        sizes = [layer.mask.numel() for layer, _ in scores]
        for (layer, _), chosen in zip(scores, dynamic.split(sizes), strict=True):
            layer.mask.copy_(chosen.view_as(layer.mask))
    for layer in layers:
        layer.partitioned.fill_(True)


def _scores(
    layers: Sequence[PartiallyDynamicConv2d], losses: Sequence[Callable[[], Tensor]]
) -> list[tuple[PartiallyDynamicConv2d, Tensor]]:
    kind = layers[0].settings.score
    if kind == "random" or (kind == "snip" and not losses):
        generator = torch.Generator().manual_seed(0)
        return [
            (x, torch.rand(x.mask.shape, generator=generator).to(x.mask.device)) for x in layers
        ]
    if kind == "magnitude":
        return [(x, _pooled(_summed(x), x.mask)) for x in layers]
    total = [torch.zeros_like(layer.mask) for layer in layers]
    for loss in losses:
        for layer in layers:
            layer.mask.requires_grad_(True)
        found = torch.autograd.grad(loss(), [layer.mask for layer in layers])
        for layer, sum_, gradient in zip(layers, total, found, strict=True):
            layer.mask.requires_grad_(False)
            sum_ += (gradient * layer.mask).detach().abs()
    return list(zip(layers, total, strict=True))


def _summed(layer: PartiallyDynamicConv2d) -> Tensor:
    """Magnitude of each entry over all dynamic kernels."""
    kernels = layer.dynamic.detach().abs().unflatten(0, (layer.settings.kernels, -1))
    return kernels.sum(0)


def _pooled(entries: Tensor, mask: Tensor) -> Tensor:
    """Entries, summed over each output channel where the mask has one value a channel."""
    return entries if entries.shape == mask.shape else entries.sum((1, 2, 3), keepdim=True)
