"""The ViT of the public DeGMix code, mmsegmentation's, slow and obvious, in float64.

Modules carry the names of the released files. The patch convolution has no bias, norms have an
epsilon of 1e-5, and maps are taken after blocks 3, 6, 9 and 12 without a final norm.
"""

import torch
import torch.nn.functional as F
from torch import nn


def named(**parts):
    holder = nn.Module()
    for name, part in parts.items():
        holder.add_module(name, part)
    return holder


class PublicViT(nn.Module):
    """An image `(N, 3, H, W)` to four maps at stride 16; the table is for `side` squared pixels."""

    def __init__(self, dim=192, blocks=12, heads=3, side=64):
        super().__init__()
        self.dim, self.grid = dim, side // 16
        self.patch_embed = named(projection=nn.Conv2d(3, dim, 16, 16, bias=False))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, dim))
        self.layers = nn.ModuleList()
        for _ in range(blocks):
            attention = nn.MultiheadAttention(dim, heads, batch_first=True)
            nn.init.normal_(attention.in_proj_bias)
            ffn = nn.Sequential(
                nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU()), nn.Linear(4 * dim, dim)
            )
            self.layers.append(
                named(
                    ln1=nn.LayerNorm(dim),
                    attn=named(attn=attention),
                    ln2=nn.LayerNorm(dim),
                    ffn=named(layers=ffn),
                )
            )

    def forward(self, image):
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % 16, 0, -height % 16))
        patches = self.patch_embed.projection(image)
        size = patches.shape[-2:]
        table = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        table = F.interpolate(table, size, mode="bicubic", align_corners=False)
        first = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat((first, (patches + table).flatten(2).transpose(1, 2)), dim=1)
        maps = []
        for number, layer in enumerate(self.layers, 1):
            inner = layer.ln1(x)
            x = x + layer.attn.attn(inner, inner, inner, need_weights=False)[0]
            x = x + layer.ffn.layers(layer.ln2(x))
            if number % 3 == 0:
                maps.append(x[:, 1:].transpose(1, 2).unflatten(2, size))
        return maps


def random_vit(seed=0):
    """One with lively weights, which are exact in float32."""
    torch.manual_seed(seed)
    network = PublicViT()
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.double().eval()
