"""Plain vision transformers under the names of mmsegmentation and of timm.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929). Maps are taken after a
quarter, a half, three quarters and all of the blocks. A file does not tell its number of heads, its
class token's use, the sides of its position table and its norms' epsilon: these are the backbone's
settings. mmsegmentation resizes the table without antialiasing; for timm's names that is a setting
too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from degmix_training.references._weights import Weights, count, gelu

KINDS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
"""Variants by channels and blocks."""
FIRST = {"layers": "layers.0.attn.attn.in_proj_weight", "blocks": "blocks.0.attn.qkv.weight"}
OTHERS = ("ls1.", "attn.q_norm", "rel_pos", "reg_token", "dist_token", "norm_pre", "w12", "rope")
"""Parts of names of transformers that are not plain in the sense of this file."""

SIZE = (43, 58)
"""Height and width of the image that a backbone is proved on: no multiple of a patch."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a plain vision transformer with a position table."""
    usual = "pos_embed" in tensors and not any(part in key for key in tensors for part in OTHERS)
    return usual and any(first in tensors for first in FIRST.values())


def kind(tensors: Mapping[str, Tensor]) -> str:
    """Return its timm name up to the image size, or a description where timm has none."""
    is_mmseg = FIRST["layers"] in tensors
    blocks = count(tensors, "layers" if is_mmseg else "blocks")
    width = tensors[FIRST["layers" if is_mmseg else "blocks"]].shape[1]
    patches = tensors.get(f"patch_embed.{'projection' if is_mmseg else 'proj'}.weight")
    size = KINDS.get((width, blocks))
    if size is None or patches is None:
        return f"a vision transformer of {width} channels with {blocks} blocks"
    return f"vit_{size}_patch{patches.shape[-1]}"


def maps(weights: Weights, image: Tensor, backbone: Any) -> list[Tensor]:
    """Compute four maps `(N, C, h, w)` of an image `(N, 3, H, W)`."""
    is_mmseg = FIRST["layers"] in weights
    name = "layers" if is_mmseg else "blocks"
    patches = f"patch_embed.{'projection' if is_mmseg else 'proj'}"
    side = weights[f"{patches}.weight"].shape[-1]
    height, width = image.shape[-2:]
    x = weights.conv(patches, F.pad(image, (0, -width % side, 0, -height % side)), side)
    grid = tuple(x.shape[-2:])
    antialias = not is_mmseg and backbone.plain.table_resize == "antialiased"
    trained = backbone.network.model.patch_embed.grid_size
    x = _start(weights, x, trained, backbone.plain.class_token, antialias)
    blocks, found = weights.count(name), []
    epsilon = backbone.plain.epsilon
    heads = backbone.network.model.blocks[0].attn.num_heads
    for block in range(blocks):
        x = _block(weights, f"{name}.{block}", x, heads, epsilon)
        if (block + 1) % (blocks // 4) == 0:
            found.append(x[:, int(backbone.plain.class_token) :])
    if backbone.plain.last_norm:
        found[-1] = weights.layer_norm("ln1" if is_mmseg else "norm", found[-1], epsilon)
    return [x.transpose(1, 2).unflatten(2, grid) for x in found]


def _start(
    weights: Weights, x: Tensor, trained: tuple[int, int], class_token: bool, antialias: bool
) -> Tensor:
    """Add the position table, resized to the grid of `(N, C, h, w)`, and put the class first."""
    table = weights["pos_embed"]
    count = trained[0] * trained[1]
    first, table = table[:, : table.shape[1] - count], table[:, -count:]
    grid = table.transpose(1, 2).unflatten(2, tuple(trained))
    if tuple(trained) != tuple(x.shape[-2:]):
        grid = F.interpolate(grid, x.shape[-2:], mode="bicubic", antialias=antialias)
    x = (x + grid).flatten(2).transpose(1, 2)
    if not class_token:
        return x
    return torch.cat(((weights["cls_token"] + first).expand(len(x), -1, -1), x), dim=1)


def _block(weights: Weights, name: str, x: Tensor, heads: int, epsilon: float) -> Tensor:
    """Apply one block to tokens `(N, L, C)`."""
    is_mmseg = f"{name}.ln1.weight" in weights
    norm = "ln" if is_mmseg else "norm"
    inner = weights.layer_norm(f"{name}.{norm}1", x, epsilon)
    if is_mmseg:
        qkv = inner @ weights[f"{name}.attn.attn.in_proj_weight"].T
        qkv = qkv + weights[f"{name}.attn.attn.in_proj_bias"]
    else:
        qkv = weights.linear(f"{name}.attn.qkv", inner)
    q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in qkv.chunk(3, dim=-1))
    shares = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
    out = f"{name}.attn.{'attn.out_proj' if is_mmseg else 'proj'}"
    x = x + weights.linear(out, (shares @ v).transpose(1, 2).flatten(2))
    first, second = ("ffn.layers.0.0", "ffn.layers.1") if is_mmseg else ("mlp.fc1", "mlp.fc2")
    inner = weights.layer_norm(f"{name}.{norm}2", x, epsilon)
    return x + weights.linear(f"{name}.{second}", gelu(weights.linear(f"{name}.{first}", inner)))
