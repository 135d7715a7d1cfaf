"""Swin under the names of mmsegmentation, of the authors, and of timm.

Liu et al., "Swin Transformer", ICCV 2021 (arXiv 2103.14030). mmsegmentation merges patches at the
end of a stage, in the order (channel, row, column); the authors merge in the order (column, row,
channel), and timm's files merge at the start of the next stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from degmix_training.references._weights import Weights, count, gelu

WINDOW = 7
HEAD = 32
"""Channels of a head, in every variant."""
KINDS = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
"""Variants by channels of the first stage and blocks of the third."""
TABLE = "relative_position_bias_table"

SIZE = (43, 58)
"""Height and width of the image that a backbone is proved on: odd at every stride."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a Swin (not of Swin v2) with windows of 7."""
    tables = [t for k, t in tensors.items() if k == f"layers.0.blocks.0.attn.{TABLE}"]
    tables += [t for k, t in tensors.items() if k == f"stages.0.blocks.0.attn.w_msa.{TABLE}"]
    return bool(tables) and tables[0].shape[0] == (2 * WINDOW - 1) ** 2


def kind(tensors: Mapping[str, Tensor]) -> str:
    """Return its timm name, or a description where timm has no such Swin."""
    tables = (t for k, t in tensors.items() if ".0.blocks.0.attn." in k and k.endswith(TABLE))
    width = HEAD * next(tables).shape[1]
    stage = "stages" if any(key.startswith("stages.") for key in tensors) else "layers"
    blocks = count(tensors, f"{stage}.2.blocks")
    size = KINDS.get((width, blocks))
    if size is None:
        return f"a Swin of {width} channels with {blocks} blocks in its third stage"
    return f"swin_{size}_patch4_window7_224"


class _Names:
    """Where the parts of a file are; `is_mmseg` tells mmsegmentation's names from the others."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.is_mmseg = is_mmseg = f"stages.0.blocks.0.attn.w_msa.{TABLE}" in tensors
        self.stage = "stages" if is_mmseg else "layers"
        self.patches = "patch_embed.projection" if is_mmseg else "patch_embed.proj"
        self.attention = "attn.w_msa" if is_mmseg else "attn"
        self.mlp = ("ffn.layers.0.0", "ffn.layers.1") if is_mmseg else ("mlp.fc1", "mlp.fc2")
        self.merges_last = is_mmseg or "layers.0.downsample.norm.weight" in tensors

    def merge(self, stage: int) -> str:
        """Return the prefix of the merging after `stage`."""
        return f"{self.stage}.{stage if self.merges_last else stage + 1}.downsample"


def maps(weights: Weights, image: Tensor, backbone: Any) -> list[Tensor]:
    """Compute the normalised maps at strides 4, 8, 16 and 32 of an image `(N, 3, H, W)`."""
    names = _Names(weights.tensors)
    height, width = image.shape[-2:]
    x = weights.conv(names.patches, F.pad(image, (0, -width % 4, 0, -height % 4)), 4)
    x = weights.layer_norm("patch_embed.norm", x.permute(0, 2, 3, 1))
    found = []
    for stage in range(4):
        for block in range(weights.count(f"{names.stage}.{stage}.blocks")):
            prefix = f"{names.stage}.{stage}.blocks.{block}"
            inner = weights.layer_norm(f"{prefix}.norm1", x)
            x = x + _attention(weights, f"{prefix}.{names.attention}", inner, block % 2)
            inner = weights.layer_norm(f"{prefix}.norm2", x)
            first, second = (f"{prefix}.{part}" for part in names.mlp)
            x = x + weights.linear(second, gelu(weights.linear(first, inner)))
        found.append(weights.layer_norm(_map_norm(weights, stage), x).permute(0, 3, 1, 2))
        if stage < 3:
            x = _merge(weights, names.merge(stage), x, names.is_mmseg)
    return found


def _map_norm(weights: Weights, stage: int) -> str:
    ours = f"norms.{stage}"
    return ours if f"{ours}.weight" in weights else f"norm{stage}"


def _merge(weights: Weights, name: str, x: Tensor, channels_first: bool) -> Tensor:
    """Merge 2 x 2 patches of `(N, h, w, C)`, zero-padded to even sides, to `(N, h/2, w/2, 2C)`."""
    n, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    x = x.view(n, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
    order = (0, 1, 3, 5, 2, 4) if channels_first else (0, 1, 3, 4, 2, 5)
    x = x.permute(order).flatten(3)
    return weights.linear(f"{name}.reduction", weights.layer_norm(f"{name}.norm", x))


def _attention(weights: Weights, name: str, x: Tensor, shifted: int) -> Tensor:
    """Attend within windows of `(N, h, w, C)`; the map is padded first and shifted afterwards."""
    height, width = x.shape[1:3]
    shift = shifted * (WINDOW // 2)
    x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    rows, columns = x.shape[1], x.shape[2]
    region = torch.zeros(rows, columns)
    if shift:  # what the shift brings together from opposite sides does not attend
        for axis, side in ((0, rows), (1, columns)):
            near = torch.arange(side) >= side - WINDOW
            far = torch.arange(side) >= side - shift
            number = (near.int() + far.int()) * (10 if axis == 0 else 1)
            region = region + (number[:, None] if axis == 0 else number[None, :])
    x = x.roll((-shift, -shift), (1, 2))
    out = torch.zeros_like(x)
    for top in range(0, rows, WINDOW):
        for left in range(0, columns, WINDOW):
            window = (slice(top, top + WINDOW), slice(left, left + WINDOW))
            own = region[window].flatten()
            apart = (own[:, None] != own[None, :]).to(x.dtype) * -100.0
            tokens = x[:, window[0], window[1]].flatten(1, 2)
            done = _attend(weights, name, tokens, apart)
            out[:, window[0], window[1]] = done.view(-1, WINDOW, WINDOW, x.shape[-1])
    return out.roll((shift, shift), (1, 2))[:, :height, :width]


def _attend(weights: Weights, name: str, tokens: Tensor, apart: Tensor) -> Tensor:
    """Attend among the tokens `(N, 49, C)` of one window."""
    table = weights[f"{name}.{TABLE}"]
    place = torch.arange(WINDOW * WINDOW)
    down = place[:, None] // WINDOW - place[None, :] // WINDOW + WINDOW - 1
    right = place[:, None] % WINDOW - place[None, :] % WINDOW + WINDOW - 1
    heads = table.shape[1]
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in weights.linear(f"{name}.qkv", tokens).chunk(3, dim=-1)
    )
    bias = table[down * (2 * WINDOW - 1) + right].permute(2, 0, 1)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias + apart
    return weights.linear(f"{name}.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
