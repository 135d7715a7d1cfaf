"""The deformable mixer that DeMT, DeMTG and DeGMix share.

Xu et al., "DeMT: Deformable Mixer Transformer for Multi-Task Learning of Dense Prediction", AAAI
2023 (arXiv 2301.03461). One block is a channel-aware mixing (1x1) and a spatial-aware deformable
one: `u = BN(GELU(Conv1x1(x))); out = u + BN(GELU(DCN(u)))`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

TAPS = 9
"""The offset network speaks of a 3x3 neighbourhood: nine rows, then nine columns."""


class OffsetNetwork(nn.Module):
    """Features `(N, C, h, w)` to offsets in pixels `(N, 2C, h, w)`: 2c is dy, 2c + 1 is dx.

    Linear in the features plus a fixed map: a 3x3 convolution to 18 maps, the absolute pixel
    position of each tap added (rows 1..h in the first nine maps, columns 1..w in the last), a
    grouped 3x3 convolution to 2C. With two groups the first half of the channels sees only rows,
    the second only columns; the authors' code has it so, and its weights need it.

    Args:
        dim: Channels C.
        zero_init: Start with every offset zero. The authors start with a random second convolution,
            whose offsets are tens of pixels; from scratch, zero learns faster.
    """

    def __init__(self, dim: int, *, zero_init: bool) -> None:
        super().__init__()
        self.to_taps = nn.Conv2d(dim, 2 * TAPS, 3, padding=1)
        self.to_offset = nn.Conv2d(2 * TAPS, 2 * dim, 3, padding=1, groups=2)
        nn.init.zeros_(self.to_taps.weight)
        if zero_init:
            nn.init.zeros_(self.to_offset.weight)
            nn.init.zeros_(self.to_offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return self.to_offset(self.to_taps(features) + self._positions(features))

    @staticmethod
    def _positions(features: Tensor) -> Tensor:
        """`(1, 18, h, w)`: where each tap of each pixel lies; the first pixel is 1."""
        height, width = features.shape[-2:]
        options = {"dtype": features.dtype, "device": features.device}
        near = torch.arange(-1, 2, **options)
        rows = torch.arange(1, height + 1, **options).view(1, height, 1)
        columns = torch.arange(1, width + 1, **options).view(1, 1, width)
        rows = (rows + near.repeat_interleave(3).view(TAPS, 1, 1)).expand(TAPS, height, width)
        columns = (columns + near.repeat(3).view(TAPS, 1, 1)).expand(TAPS, height, width)
        return torch.cat((rows, columns)).unsqueeze(0)


class DeformConv(nn.Conv2d):
    """1x1 convolution over values sampled at one offset a channel: `(N, C, h, w) -> (N, C, h, w)`.

    Offset groups = C, no mask, zeros outside. Dai et al. 2017, eq. 3.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 1)

    def forward(self, value: Tensor, offset: Tensor) -> Tensor:
        """See the class; `offset` is `(N, 2C, h, w)`."""
        if self.training and value.device.type == "cpu":
            # torchvision's CPU backward runs on one thread: 72 against 12 ms at (8, 48, 24, 32).
            return F.conv2d(sample(value, offset), self.weight, self.bias)
        return deform_conv2d(value, offset, self.weight, self.bias)


def sample(value: Tensor, offset: Tensor) -> Tensor:
    """Bilinear samples of `value` `(N, C, h, w)` at `offset` `(N, 2C, h, w)`, by `grid_sample`.

    The same function as the deformable convolution's sampling; a test holds the two together.
    """
    n, c, height, width = value.shape
    dy, dx = offset.reshape(n * c, 2, height, width).unbind(1)
    y = dy + torch.arange(height, dtype=value.dtype, device=value.device).view(1, height, 1)
    x = dx + torch.arange(width, dtype=value.dtype, device=value.device).view(1, 1, width)
    # align_corners=True puts -1 and 1 on the first and last pixel's centre.
    grid = torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), dim=-1)
    planes = value.reshape(n * c, 1, height, width)
    sampled = F.grid_sample(planes, grid, padding_mode="zeros", align_corners=True)
    return sampled.view(n, c, height, width)


class MixerBlock(nn.Module):
    """One block: `(N, C, h, w) -> (N, C, h, w)`, residual around the second half."""

    def __init__(self, dim: int, *, zero_offset_init: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(dim, dim, 1)
        self.mix_norm = nn.BatchNorm2d(dim)
        self.offset = OffsetNetwork(dim, zero_init=zero_offset_init)
        self.deform = DeformConv(dim)
        self.deform_norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        mixed = self.mix_norm(F.gelu(self.mix(x)))
        return mixed + self.deform_norm(F.gelu(self.deform(mixed, self.offset(mixed))))
