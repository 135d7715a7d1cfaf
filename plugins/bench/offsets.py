"""Five kinds of offsets. They change how much of a cache line a warp uses fivefold."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

CHECKPOINT = Path(__file__).resolve().parents[2] / "training" / "degmix_training" / "weights"
KINDS = ("zero", "net-init", "gauss 2 px", "gauss 30 px", "trained")


def positions(height: int, width: int) -> torch.Tensor:
    """`(1, 18, h, w)`: what DeMT's offset network adds before its second convolution."""
    near = torch.arange(-1.0, 2.0)
    rows = torch.arange(1.0, height + 1).view(1, height, 1) + near.repeat_interleave(3).view(
        9, 1, 1
    )
    columns = torch.arange(1.0, width + 1).view(1, 1, width) + near.repeat(3).view(9, 1, 1)
    both = (rows.expand(9, height, width), columns.expand(9, height, width))
    return torch.cat(both).unsqueeze(0)


def trained_weights() -> tuple[np.ndarray, np.ndarray]:
    """Both convolutions of the first offset network in the shipped checkpoint."""
    path = next(CHECKPOINT.glob("*.safetensors"))
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])

    def read(suffix: str) -> np.ndarray:
        entry = next(v for k, v in sorted(header.items()) if k.endswith(suffix))
        begin, end = (8 + size + at for at in entry["data_offsets"])
        kind = {"F32": np.float32, "F16": np.float16}[entry["dtype"]]
        return np.frombuffer(data[begin:end], kind).reshape(entry["shape"]).astype(np.float32)

    return read("offset.to_taps.weight"), read("offset.to_offset.weight")


def per_channel_offsets(kind: str, n: int, c: int, height: int, width: int) -> torch.Tensor:
    """`(n, 2 c, h, w)` of one kind, in pixels."""
    shape = (n, 2 * c, height, width)
    if kind == "zero":
        return torch.zeros(shape)
    if kind.startswith("gauss"):
        return float(kind.split()[1]) * torch.randn(shape)
    if kind == "net-init":
        expand = torch.empty(2 * c, 9, 3, 3)
        torch.nn.init.kaiming_uniform_(expand, a=5**0.5)
        return F.conv2d(positions(height, width), expand, padding=1, groups=2).expand(shape).clone()
    taps, expand = (torch.tensor(w) for w in trained_weights())
    seen = torch.randn(n, taps.shape[1], height, width)
    maps = F.conv2d(seen, taps, padding=1) + positions(height, width)
    offsets = F.conv2d(maps, expand, padding=1, groups=2)
    halves = [
        half.repeat(1, -(-c // half.shape[1]), 1, 1)[:, :c] for half in offsets.chunk(2, dim=1)
    ]
    return torch.cat(halves, dim=1)
