"""Backbones: every timm model that supports `features_only`, under its timm name."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from timm.models._features import FeatureGetterNet
from timm.models.hrnet import HighResolutionModule, HighResolutionNet
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError

STRIDES = (4, 8, 16, 32)
PLAIN_STRIDE = 16
PLAIN_DEPTHS = (0.25, 0.5, 0.75, 1.0)
"""Depths at which a plain transformer gives its maps: after layers 3, 6, 9 and 12 of 12."""


class PlainSettings(Settings):
    """How a plain vision transformer differs from timm's; a pyramid ignores these settings.

    Attributes:
        class_token: Whether the sequence has timm's class token.
        last_norm: Whether the last map goes through the transformer's final LayerNorm.
        table_side: Side in pixels of the square image that the position table is for, or height
            and width of one that is not square; None is the side that the timm name has.
        table_resize: How the position table is resized to another grid, always bicubic:
            `antialiased` as in timm, or `plain` as in mmsegmentation.
        epsilon: Epsilon of every LayerNorm; 1e-6 in timm, 1e-5 in the public DeGMix code.
        drop_path: How often training leaves out the last block; the rate rises from 0 at the first.
    """

    class_token: bool = True
    last_norm: bool = False
    table_side: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    table_resize: Literal["antialiased", "plain"] = "antialiased"
    epsilon: float = Field(1e-6, gt=0)
    drop_path: float = Field(0.0, ge=0, lt=1)


class BackboneSettings(Settings):
    """What every network says of its backbone.

    Attributes:
        backbone: Any timm name that `Backbone` takes.
        hrnet_fuse: How HRNet enlarges coarse branches before it adds them to finer ones. The
            published networks use `bilinear`. `nearest`, with the image padded to multiples of
            32, is what checkpoints of the first format were trained with.
        plain: Settings of a plain vision transformer.
    """

    backbone: str = "mobilenetv4_conv_small"
    hrnet_fuse: Literal["bilinear", "nearest"] = "bilinear"
    plain: PlainSettings = PlainSettings()


class Backbone(nn.Module):
    """Turns an image `(N, 3, H, W)` into four feature maps, or five.

    A pyramid gives one map at each of the strides 4, 8, 16 and 32; a plain vision transformer
    (`is_plain`) gives four maps at stride 16. An image whose sides the network cannot divide
    evenly is zero-padded at the bottom and the right, except for HRNet, which needs no padding.
    Map i has `ceil(H / stride) x ceil(W / stride)` pixels.

    Swin has a LayerNorm on each map, as in mmsegmentation; a map smaller than its window is padded,
    instead of using a smaller window, so the weights fit every image size. HRNet's maps are its
    branches, without timm's classification layers on top, and they are fused as in mmsegmentation.

    Args:
        name: timm name, e.g. `swin_tiny_patch4_window7_224` or `hrnet_w18_small_v2`.
        pretrained: Ask timm for its ImageNet weights (needs the network or timm's cache).
        five: Whether a pyramid also gives a map at stride 2, as its first.
        dilated: Whether the last stage dilates instead of striding, so that it is at stride 16.
        hrnet_fuse: As in `BackboneSettings`.
        plain: As in `BackboneSettings`.

    Raises:
        ConfigError: timm has no such model, the model has no feature maps at these strides, a
            setting does not apply to it, or its pretrained weights are not available.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        five: bool = False,
        dilated: bool = False,
        hrnet_fuse: str = "bilinear",
        plain: PlainSettings | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.plain = plain or PlainSettings()
        family = _family(name)
        if hrnet_fuse != "bilinear" and family is not HighResolutionNet:
            raise ConfigError(
                f"backbone {name!r}: hrnet_fuse {hrnet_fuse!r} applies to HRNet only; leave it out"
            )
        options = _OPTIONS.get(family, {})
        reductions = _create(name, options).feature_info.reduction()
        self.is_plain = set(reductions) == {PLAIN_STRIDE} and not five
        self.strides = [PLAIN_STRIDE] * 4 if self.is_plain else [2, *STRIDES][not five :]
        self.last_norm: nn.Module | None = None
        if self.is_plain:
            self.network, self.last_norm = _plain_network(name, self.plain, pretrained)
        else:
            options = {**options, "out_indices": _indices(name, reductions, self.strides, five)}
            if dilated:
                options["output_stride"] = self.strides[-2]
                self.strides[-1] = self.strides[-2]
            self.network = _create(name, options, pretrained)
        self.channels: list[int] = self.network.feature_info.channels()
        self.multiple = self.strides[-1]
        if family is SwinTransformer:
            self.multiple = STRIDES[0]
            self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)
            _change_class(self.network, SwinTransformerBlock, PadFirstBlock)
        elif family is HighResolutionNet and hrnet_fuse == "bilinear":
            self.multiple = 1
            _change_class(self.network, HighResolutionModule, BilinearFuse)

    @classmethod
    def of(cls, settings: BackboneSettings, **options: bool) -> Backbone:
        """Make the backbone that `settings` describe; `options` are those of the constructor."""
        fuse, plain = settings.hrnet_fuse, settings.plain
        return cls(settings.backbone, hrnet_fuse=fuse, plain=plain, **options)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps of shape `(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))`."""
        height, width = image.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        maps = self.network(F.pad(image, (0, right, 0, below)) if below or right else image)
        if hasattr(self, "norms"):  # channels last
            maps = [norm(m).permute(0, 3, 1, 2) for norm, m in zip(self.norms, maps, strict=True)]
        if self.last_norm is not None:
            maps[-1] = self.last_norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return [
            m[..., : -(-height // s), : -(-width // s)]
            for m, s in zip(maps, self.strides, strict=True)
        ]


_OPTIONS: dict[type | None, dict[str, Any]] = {
    SwinTransformer: {"strict_img_size": False, "always_partition": True},
    HighResolutionNet: {"feature_location": ""},
}


def _indices(name: str, reductions: list[int], strides: list[int], five: bool) -> tuple[int, ...]:
    """Indices of the last of timm's maps at each of `strides`.

    Raises:
        ConfigError: A stride has no map.
    """
    if missing := [s for s in strides if s not in reductions]:
        plain = f" or all at {PLAIN_STRIDE} (a plain vision transformer)"
        raise ConfigError(
            f"backbone {name!r}: has feature maps at strides {reductions}, expected one at "
            f"each of {strides} (a pyramid){'' if five else plain}; "
            f"no map at {', '.join(map(str, missing))}"
        )
    return tuple(len(reductions) - 1 - reductions[::-1].index(s) for s in strides)


def _change_class(network: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    """Give every module of class `old` the class `new`, which has the same weights."""
    for module in network.modules():
        if isinstance(module, old):
            module.__class__ = new


def _plain_network(
    name: str, plain: PlainSettings, pretrained: bool
) -> tuple[FeatureGetterNet, nn.Module | None]:
    """Make a plain vision transformer that gives four maps, and the norm of the last one.

    Raises:
        ConfigError: A setting of `plain` does not apply to the model.
    """
    options: dict[str, Any] = {"dynamic_img_size": True, "num_classes": 0}
    if plain.table_side is not None:
        options["img_size"] = plain.table_side
    if plain.drop_path:
        options["drop_path_rate"] = plain.drop_path
    model = _create(name, options, pretrained, features_only=False)
    is_usual = isinstance(model, VisionTransformer) and model.pos_embed is not None
    if plain != PlainSettings() and not is_usual:
        raise ConfigError(
            f"backbone {name!r}: the settings under `plain` apply to timm's VisionTransformer with "
            f"a position table, and this is {type(model).__name__}; leave them out"
        )
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and plain.epsilon != PlainSettings().epsilon:
            module.eps = plain.epsilon
    if not plain.class_token:
        drop_class_token(model)
    if plain.table_resize == "plain":
        _change_class(model, VisionTransformer, PlainPositions)
    norm = model.norm if plain.last_norm else None
    indices = tuple(round(share * len(model.blocks)) - 1 for share in PLAIN_DEPTHS)
    return FeatureGetterNet(model, out_indices=indices), norm


def plain_transformer(
    name: str, options: dict[str, Any], pretrained: bool = False
) -> VisionTransformer:
    """Create a plain vision transformer of timm with a class token, without a classifier.

    Raises:
        ConfigError: The model is no plain vision transformer, or has no such size.
    """
    network = create(name, {"num_classes": 0, **options}, pretrained)
    is_plain = isinstance(network, VisionTransformer) and network.cls_token is not None
    if not is_plain or network.patch_embed.patch_size != (PLAIN_STRIDE, PLAIN_STRIDE):
        raise ConfigError(
            f"backbone {name!r} is no plain vision transformer with a class token and patches of "
            f"{PLAIN_STRIDE}; expected one such as deit_small_patch16_224"
        )
    return network


def drop_class_token(model: VisionTransformer) -> None:
    """Remove the class token and its row of the position table, if there is one."""
    if model.cls_token is not None:
        first = int(not model.no_embed_class)
        model.pos_embed = nn.Parameter(model.pos_embed.detach()[:, first:])
        model.cls_token = None
        model.num_prefix_tokens -= 1


class PlainPositions(VisionTransformer):
    """A vision transformer whose position table is resized without antialiasing."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to patches `(N, h, w, C)`, and put the class token before them."""
        n, height, width, channels = x.shape
        grid = self.patch_embed.grid_size
        count = self.pos_embed.shape[1] - grid[0] * grid[1]
        prefix, table = self.pos_embed[:, :count], self.pos_embed[:, count:]
        if (height, width) != tuple(grid):
            table = table.transpose(1, 2).unflatten(2, tuple(grid))
            table = F.interpolate(table, (height, width), mode="bicubic", align_corners=False)
            table = table.flatten(2).transpose(1, 2)
        tokens = x.reshape(n, height * width, channels) + table
        tokens_before = [t for t in (self.cls_token, self.reg_token) if t is not None]
        if tokens_before:
            before = torch.cat(tokens_before, dim=1)
            before = before + prefix if count else before
            tokens = torch.cat((before.expand(n, -1, -1), tokens), dim=1)
        return self.pos_drop(tokens)


class BilinearFuse(HighResolutionModule):
    """HRNet's exchange between branches as mmsegmentation and the DeMT family have it.

    A coarser branch is enlarged by its whole factor, bilinear with half-pixel centres, and then
    resized to the finer branch where a side is not a multiple. timm repeats pixels instead and
    needs sides that 32 divides. The weights are the same.
    """

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Exchange maps `(N, C_i, h_i, w_i)`, from fine to coarse; shapes stay."""
        x = [branch(m) for branch, m in zip(self.branches, x, strict=True)]
        if self.num_branches == 1:
            return x
        fused = []
        for i, layers in enumerate(self.fuse_layers):
            terms = [
                self._enlarge(layer, x[j], 2 ** (j - i), x[i]) if j > i else layer(x[j])
                for j, layer in enumerate(layers)
            ]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            fused.append(self.fuse_act(total))
        return fused

    @staticmethod
    def _enlarge(layer: nn.Sequential, x: Tensor, factor: int, finer: Tensor) -> Tensor:
        conv, norm, _ = layer  # the last is timm's enlargement
        x = norm(conv(x))
        size, target = (factor * x.shape[-2], factor * x.shape[-1]), tuple(finer.shape[-2:])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        if size == target:
            return x
        return F.interpolate(x, target, mode="bilinear", align_corners=False)


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


def check_backbone(name: str) -> None:
    """Complain of a name that timm does not have.

    Raises:
        ConfigError: timm has no such model; the message has the nearest names.
    """
    _family(name)


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
