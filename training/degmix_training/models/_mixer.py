"""The deformable mixer that DeMT, DeMTG and DeGMix share.

Xu et al., "DeMT: Deformable Mixer Transformer for Multi-Task Learning of Dense Prediction", AAAI
2023 (arXiv 2301.03461). One block is a channel-aware mixing (1x1) and a spatial-aware deformable
one: `u = BN(GELU(Conv1x1(x))); out = u + BN(GELU(DCN(u)))`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from degmix_edge.config import Settings

FAR = 1e6
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
        zero_init: Start with every offset zero; the authors start with a random second convolution.
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
        kind = features.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            # In 16 bits a position of 140 px is off by up to half a pixel.
            with torch.autocast(kind, enabled=False):
                return self._offsets(features.float())
        return self._offsets(features)

    def _offsets(self, features: Tensor) -> Tensor:
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


class ModulatedOffset(nn.Module):
    """Offsets and mask of a k x k modulated deformable convolution, by one 3x3 convolution.

    `(N, C, h, w)` to offsets `(N, 2 G k k, h, w)` and mask `(N, G k k, h, w)` in (0, 1). Starts at
    offsets of zero and a mask of a half. Zhu et al. 2019, "Deformable ConvNets v2", section 3.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.taps = groups * kernel * kernel
        self.predict = nn.Conv2d(dim, 3 * self.taps, 3, padding=1)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        offset, mask = self.predict(features).split((2 * self.taps, self.taps), dim=1)
        return offset, mask.sigmoid()


class ModulatedDeformConv(nn.Conv2d):
    """k x k modulated deformable convolution, stride 1, same size: DCNv2, eq. 1.

    It takes values `(N, C, h, w)` and the offset and mask that `ModulatedOffset` gives.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2)

    def forward(self, value: Tensor, offset_and_mask: tuple[Tensor, Tensor]) -> Tensor:
        offset, mask = offset_and_mask
        options = {"padding": self.padding, "mask": mask}
        return deform_conv2d(value, known(offset), self.weight, self.bias, **options)


class DeformConv(nn.Conv2d):
    """1x1 convolution over values `(N, C, h, w)`, each channel sampled at an offset of its own.

    Offsets are `(N, 2C, h, w)` in pixels, y then x. There are C offset groups and no mask, and
    values outside are zero. Dai et al. 2017, eq. 3.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 1)

    def forward(self, value: Tensor, offset: Tensor) -> Tensor:
        if value.dtype != offset.dtype:  # mixed precision: sample where the offsets are exact
            value = value.to(offset.dtype)
        if self.training and value.device.type == "cpu":
            # torchvision's CPU backward runs on one thread: 72 against 12 ms at (8, 48, 24, 32).
            return F.conv2d(sample(value, offset), self.weight, self.bias)
        return deform_conv2d(value, known(offset), self.weight, self.bias)


def known(offset: Tensor) -> Tensor:
    """`offset` with what is no number far outside: torchvision reads wild memory at a NaN."""
    if torch.compiler.is_exporting():
        return offset
    return torch.nan_to_num(offset, nan=FAR, posinf=FAR, neginf=-FAR)


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


class SpatialGate(nn.Module):
    """`(N, C, h, w) -> (N, C, h, w)`: x times a 3x3 depthwise convolution of its norm.

    The figures of DeGMix show "spatial gating" in each mixer block; the public code has none, and
    the paper's equation was not at hand. This is our reading: the gate of gMLP (Liu et al. 2021,
    section 2.1), local instead of over all positions, so that it fits every size. It starts open.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.gate = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.norm(x))


class MixerConfig(Settings):
    """Settings of one mixer block; the defaults are the published ones.

    Attributes:
        mixer_order: `mix_first` is the papers' and the public code's since 2023-03-07. Before that
            day it was `deform_first`, and some released checkpoints may date from then.
        zero_offset_init: Start with every offset zero. The authors start with offsets of tens of
            pixels; from scratch, zero learns faster.
        spatial_gating: Multiply each block's output by a `SpatialGate`.
        deform_kernel: None is the published operator, 1x1 with one offset a channel. An odd k is a
            k x k modulated deformable convolution (DCNv2) with `deform_groups` offset groups.
    """

    mixer_order: Literal["mix_first", "deform_first"] = "mix_first"
    zero_offset_init: bool = False
    spatial_gating: bool = False
    deform_kernel: int | None = Field(None, gt=0)
    deform_groups: int = Field(1, gt=0)

    @model_validator(mode="after")
    def _odd_kernel(self) -> MixerConfig:
        if self.deform_kernel is not None and self.deform_kernel % 2 == 0:
            raise ValueError(f"deform_kernel {self.deform_kernel} must be odd")
        if self.deform_kernel is None and self.deform_groups != 1:
            raise ValueError(
                f"deform_groups {self.deform_groups} needs a deform_kernel: the published operator "
                f"has a group a channel"
            )
        return self


class MixerBlock(nn.Module):
    """One block: `(N, C, h, w) -> (N, C, h, w)`, residual around the deformable half."""

    def __init__(self, dim: int, config: MixerConfig) -> None:
        super().__init__()
        self.order = config.mixer_order
        self.mix = nn.Conv2d(dim, dim, 1)
        self.mix_norm = nn.BatchNorm2d(dim)
        if config.deform_kernel is None:
            self.offset: nn.Module = OffsetNetwork(dim, zero_init=config.zero_offset_init)
            self.deform: nn.Module = DeformConv(dim)
        else:
            self.offset = ModulatedOffset(dim, config.deform_kernel, config.deform_groups)
            self.deform = ModulatedDeformConv(dim, config.deform_kernel)
        self.deform_norm = nn.BatchNorm2d(dim)
        self.gate = SpatialGate(dim) if config.spatial_gating else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "mix_first":
            return self.gate(self._deform(self._mix(x)))
        return self.gate(self._mix(self._deform(x)))

    def _mix(self, x: Tensor) -> Tensor:
        return self.mix_norm(F.gelu(self.mix(x)))

    def _deform(self, x: Tensor) -> Tensor:
        return x + self.deform_norm(F.gelu(self.deform(x, self.offset(x))))
