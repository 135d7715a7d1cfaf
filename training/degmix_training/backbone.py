"""Backbones: every timm model that supports `features_only`, under its timm name."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.hrnet import HighResolutionNet
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from degmix_edge.errors import ConfigError

STRIDES = (4, 8, 16, 32)
PLAIN_STRIDE = 16
PLAIN_DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Depths at which a plain transformer gives its maps: after layers 3, 6, 9 and 12 of 12."""


class Backbone(nn.Module):
    """Turns an image `(N, 3, H, W)` into four feature maps, or five.

    A pyramid gives one map at each of the strides 4, 8, 16 and 32; a plain vision transformer
    (`is_plain`) gives four maps at stride 16. An image whose sides the network cannot divide
    evenly is zero-padded at the bottom and the right. Map i has
    `ceil(H / stride) x ceil(W / stride)` pixels.

    Swin has a LayerNorm on each map, as in mmsegmentation; a map smaller than its window is padded,
    instead of using a smaller window, so the weights fit every image size. HRNet's maps are its
    branches, without timm's classification layers on top.

    Args:
        name: timm name, e.g. `swin_tiny_patch4_window7_224` or `hrnet_w18_small_v2`.
        pretrained: Ask timm for its ImageNet weights (needs the network or timm's cache).
        five: Whether a pyramid also gives a map at stride 2, as its first.
        dilated: Whether the last stage dilates instead of striding, so that it is at stride 16.

    Raises:
        ConfigError: timm has no such model, the model has no feature maps at these strides, or
            its pretrained weights are not available.
    """

    def __init__(
        self, name: str, *, pretrained: bool = False, five: bool = False, dilated: bool = False
    ) -> None:
        super().__init__()
        self.name = name
        family = _family(name)
        options: dict[str, Any] = {}
        strides = [2, *STRIDES] if five else list(STRIDES)
        if family is SwinTransformer:
            options = {"strict_img_size": False, "always_partition": True}
        elif family is HighResolutionNet:
            options = {"feature_location": ""}
        info = _create(name, options).feature_info
        reductions = info.reduction()
        self.is_plain = set(reductions) == {PLAIN_STRIDE}
        if self.is_plain and not five:
            options["dynamic_img_size"] = True
            indices = tuple(round(share * len(info.info)) - 1 for share in PLAIN_DEPTHS)
        else:
            if missing := [s for s in strides if s not in reductions]:
                plain = f" or all at {PLAIN_STRIDE} (a plain vision transformer)"
                raise ConfigError(
                    f"backbone {name!r}: has feature maps at strides {reductions}, expected one at "
                    f"each of {strides} (a pyramid){'' if five else plain}; "
                    f"no map at {', '.join(map(str, missing))}"
                )
            indices = tuple(len(reductions) - 1 - reductions[::-1].index(s) for s in strides)
        if dilated:
            options["output_stride"] = strides[-2]
            strides[-1] = strides[-2]
        self.network = _create(name, {**options, "out_indices": indices}, pretrained)
        self.channels: list[int] = self.network.feature_info.channels()
        self.strides = [PLAIN_STRIDE] * 4 if self.is_plain else strides
        self.multiple = strides[-1]
        if self.is_plain:
            self.multiple = PLAIN_STRIDE
        elif family is SwinTransformer:
            self.multiple = STRIDES[0]
            self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)
            for block in self.network.modules():
                if isinstance(block, SwinTransformerBlock):
                    block.__class__ = PadFirstBlock

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps of shape `(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`."""
        height, width = image.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        maps = self.network(F.pad(image, (0, right, 0, below)) if below or right else image)
        if hasattr(self, "norms"):  # channels last
            maps = [norm(m).permute(0, 3, 1, 2) for norm, m in zip(self.norms, maps, strict=True)]
        return [
            m[..., : -(-height // s), : -(-width // s)]
            for m, s in zip(maps, self.strides, strict=True)
        ]


class PadFirstBlock(SwinTransformerBlock):
    """Swin's block, but with the padding before the shift.

    The authors' detection code and mmsegmentation use this order, and published weights were
    trained with it. timm shifts first and pads afterwards, which gives different results where a
    map is no multiple of the window.
    """

    def _attn(self, x: Tensor) -> Tensor:
        """Apply window attention to `(N, h, w, C)`."""
        n, height, width, channels = x.shape
        (wh, ww), (sh, sw) = self.window_size, self.shift_size
        if height % wh or width % ww:
            x = F.pad(x, (0, 0, 0, -width % ww, 0, -height % wh))
        rows, columns = x.shape[1] // wh, x.shape[2] // ww
        if sh or sw:
            x = torch.roll(x, (-sh, -sw), (1, 2))
        windows = x.view(n, rows, wh, columns, ww, channels).transpose(2, 3)
        windows = self.attn(windows.reshape(-1, wh * ww, channels), mask=self._mask(x))
        x = windows.view(n, rows, columns, wh, ww, channels).transpose(2, 3)
        x = x.reshape(n, rows * wh, columns * ww, channels)
        if sh or sw:
            x = torch.roll(x, (sh, sw), (1, 2))
        return x[:, :height, :width]

    def _mask(self, x: Tensor) -> Tensor | None:
        """Return the attention mask `(windows, area, area)`.

        It is -100 between two pixels of a window that come from opposite sides of the image,
        which only the shift joined.
        """
        (wh, ww), (sh, sw) = self.window_size, self.shift_size
        if not (sh or sw):
            return None
        height, width = x.shape[1:3]
        rows = torch.arange(height, device=x.device).view(-1, 1)
        columns = torch.arange(width, device=x.device).view(1, -1)
        region = 3 * ((rows >= height - wh).int() + (rows >= height - sh).int())
        region = region + (columns >= width - ww).int() + (columns >= width - sw).int()
        region = region.view(height // wh, wh, width // ww, ww).transpose(1, 2)
        region = region.reshape(-1, wh * ww)
        apart = region.unsqueeze(1) != region.unsqueeze(2)
        return apart.to(x.dtype) * -100.0


def _family(name: str) -> type | None:
    """Return the timm class of `name` if this module treats it specially, else None.

    Raises:
        ConfigError: timm has no such model.
    """
    if not timm.is_model(name):
        near = _nearest(name.partition(".")[0])
        raise ConfigError(
            f"backbone {name!r}: timm {timm.__version__} has no such model"
            + (f". Did you mean {' or '.join(near)}?" if near else "")
        )
    stem = name.partition(".")[0]
    # timm knows in which module a model is defined without building the model.
    module = timm.model_entrypoint(stem).__module__
    return {
        "timm.models.swin_transformer": SwinTransformer,
        "timm.models.hrnet": HighResolutionNet,
    }.get(module)


def _nearest(name: str) -> list[str]:
    """Return the models with the nearest names.

    Names are compared up to the length of `name`, because timm's names end in sizes.
    """
    by_start: dict[str, list[str]] = {}
    for model in timm.list_models():
        by_start.setdefault(model[: len(name)], []).append(model)
    near = difflib.get_close_matches(name, by_start, n=3, cutoff=0.6)
    return [min(by_start[start], key=len) for start in near]


def create(name: str, options: dict[str, Any], pretrained: bool = False) -> Any:
    """Create a timm model.

    Raises:
        ConfigError: timm has no such model, it does not accept these options, or its weights are
            not available.
    """
    _family(name)
    return _create(name, options, pretrained, features_only=False)


def _create(
    name: str, options: dict[str, Any], pretrained: bool = False, *, features_only: bool = True
) -> Any:
    if features_only:
        options = {"features_only": True, **options}
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # timm, the hub and the network raise many kinds
        if not pretrained:
            reason = "gives no feature maps" if features_only else "cannot make it"
            raise ConfigError(f"backbone {name!r}: timm {reason}: {error}") from error
        raise ConfigError(
            f"backbone {name!r}: timm could not get its pretrained weights ({error}); use a local "
            f"file with --pretrained FILE, or random weights with --pretrained none"
        ) from error
