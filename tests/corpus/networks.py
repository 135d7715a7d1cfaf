"""Public architectures with random weights: what each is called, how it is made, what it takes.

Sizes are small, so that a case takes seconds. Random statistics stand in for training, because
norms of fresh weights are identities, which hide what a fold does wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

CLASSES = 5
SEED = 0


@dataclass(frozen=True)
class Network:
    """One public architecture.

    Attributes:
        make: Builds it with random weights.
        size: Side of its square input in pixels.
        library: The package that it comes from.
        oldest_opset: The first opset that TorchScript exports it to.
    """

    make: Callable[[], nn.Module]
    size: int
    library: str
    oldest_opset: int = 11

    def build(self) -> nn.Module:
        """The network for inference, with the same random weights each time."""
        torch.manual_seed(SEED)
        network = lively(Tensors(self.make()).eval())
        settle(network, torch.randn(2, 3, self.size, self.size))
        return network


class Tensors(nn.Module):
    """A network that returns a tuple of its float tensors, whatever structure it returns them in.

    Args:
        network: Takes `(1, 3, H, W)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.network(image)))


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        return _tensors(list(values.values()))
    if isinstance(values, Sequence):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


class Segmenter(nn.Module):
    """Features of a timm network, brought to the size of the finest and joined by a 1x1 product.

    Args:
        name: The network's name in timm.
        **settings: As `timm.create_model` takes them.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__()
        import timm

        self.body = timm.create_model(name, features_only=True, **settings)
        channels = self.body.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(count, 16, 1) for count in channels)
        self.head = nn.Conv2d(16 * len(channels), CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.body(image)
        # Some networks, such as Swin, have channels last.
        maps = [
            x if x.shape[1] == layer.in_channels else x.permute(0, 3, 1, 2)
            for x, layer in zip(maps, self.lateral, strict=True)
        ]
        maps = [layer(x) for x, layer in zip(maps, self.lateral, strict=True)]
        side = maps[0].shape[2:]
        maps = [functional.interpolate(x, side, mode="bilinear") for x in maps]
        return self.head(torch.cat(maps, 1))


class UNet(nn.Module):
    """A ResNet encoder and a U-Net decoder with transposed convolutions and skips."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.body = timm.create_model("resnet18", features_only=True)
        channels = self.body.feature_info.channels()[::-1]
        pairs = list(zip(channels, channels[1:], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for _, b in pairs
        )
        self.head = nn.Conv2d(channels[-1], CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        x, *skips = self.body(image)[::-1]
        for up, block, skip in zip(self.up, self.blocks, skips, strict=True):
            x = block(torch.cat([up(x), skip], 1))
        return self.head(x)


def lively(network: nn.Module) -> nn.Module:
    """Give constant parameters values, as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1:
                values = parameter.flatten()
                if bool((values == values[0]).all()):
                    # Heads that end in a ReLU shall not be zero everywhere.
                    parameter += 0.1 * torch.randn_like(parameter) + 0.02
            elif parameter.numel() == 1:
                parameter += 0.1
    return network


def settle(network: nn.Module, images: Tensor) -> None:
    """Measure every batch norm's statistics on `images`, and move them a little."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.9
        norm.train()
    with torch.no_grad():
        if norms:
            network(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum
            if norm.running_var is not None:
                norm.running_mean += (
                    0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
                )
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)


def _timm(name: str, **settings: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10, **settings)


def _torchvision(name: str, **settings: Any) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, **settings)


def _transformers(name: str, config: Any = None, **settings: Any) -> nn.Module:
    import transformers

    kind = getattr(transformers, name)
    made = config() if config is not None else kind.config_class(**settings)
    made._attn_implementation = "eager"
    return kind(made)


def _swin() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        **{"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
        **{"window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    )


def _convnext() -> Any:
    from transformers import ConvNextConfig

    names = ["stage1", "stage2", "stage3", "stage4"]
    return ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], out_features=names)


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        **{"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
        **{"layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
    )


_VIT = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
_QUERIES = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 7}
_QUERIES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
_QUERIES |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_labels": CLASSES}


def _depth_anything() -> Any:
    from transformers import DepthAnythingConfig, Dinov2Config

    stages = ["stage1", "stage2", "stage3", "stage4"]
    body = Dinov2Config(
        **_VIT,
        **{"num_hidden_layers": 4, "image_size": 70, "patch_size": 14, "out_features": stages},
        **{"reshape_hidden_states": False, "apply_layernorm": True, "mlp_ratio": 2},
    )
    return DepthAnythingConfig(
        **{"backbone_config": body, "reassemble_hidden_size": 32, "patch_size": 14},
        **{"neck_hidden_sizes": [8, 16, 24, 32], "fusion_hidden_size": 16, "head_hidden_size": 8},
    )


def _beit_body(**changes: Any) -> Any:
    from transformers import BeitConfig

    values = {"num_hidden_layers": 4, "image_size": 64, "patch_size": 16, **_VIT}
    values |= {
        "use_relative_position_bias": True,
        "out_features": [f"stage{i}" for i in range(1, 5)],
    }
    return BeitConfig(**values | {"reshape_hidden_states": False} | changes)


def _zoe_depth() -> Any:
    from transformers import ZoeDepthConfig

    return ZoeDepthConfig(
        **{"backbone_config": _beit_body(), "reassemble_factors": [4, 2, 1, 0.5]},
        **{
            "neck_hidden_sizes": [8, 16, 24, 32],
            "fusion_hidden_size": 16,
            "bottleneck_features": 16,
        },
        **{"num_relative_features": 8, "bin_embedding_dim": 16, "num_attractors": [4, 3, 2, 1]},
        **{
            "bin_configurations": [{"n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0, "name": "n"}]
        },
    )


def _dpt() -> Any:
    from transformers import DPTConfig

    return DPTConfig(
        **_VIT,
        **{"num_hidden_layers": 4, "image_size": 64, "patch_size": 16, "num_labels": CLASSES},
        **{"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 24, 32]},
        **{"fusion_hidden_size": 16, "is_hybrid": False},
    )


def _beit() -> Any:
    values = {"num_labels": CLASSES, "out_indices": [0, 1, 2, 3], "out_features": None}
    return _beit_body(**values, pool_scales=[1, 2])


def _upernet(body: Callable[[], Any]) -> Any:
    from transformers import UperNetConfig

    values = {"hidden_size": 16, "auxiliary_channels": 8, "num_labels": CLASSES}
    values["pool_scales"] = [1, 2]
    return UperNetConfig(backbone_config=body(), **values)


def _mask2former() -> Any:
    from transformers import Mask2FormerConfig

    return Mask2FormerConfig(
        **{"backbone_config": _swin(), "feature_size": 32, "mask_feature_size": 32},
        **{"hidden_dim": 16, "encoder_feedforward_dim": 32, "encoder_layers": 1},
        **{"decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32},
        **{"num_queries": 7, "num_labels": CLASSES},
    )


def _maskformer() -> Any:
    from transformers import DetrConfig, MaskFormerConfig

    parts = {"backbone_config": _swin(), "decoder_config": DetrConfig(**_QUERIES)}
    return MaskFormerConfig(**parts, fpn_feature_size=32, mask_feature_size=32)


def _detr(name: str, **settings: Any) -> Any:
    import transformers

    values = {"use_timm_backbone": False, "backbone_config": _resnet(), "backbone": None}
    return getattr(transformers, name)(**values, **_QUERIES | settings)


def _rt_detr() -> Any:
    from transformers import RTDetrConfig, RTDetrResNetConfig

    body = RTDetrResNetConfig(
        **{"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
        **{"layer_type": "bottleneck", "out_features": ["stage2", "stage3", "stage4"]},
    )
    return RTDetrConfig(
        **{"backbone_config": body, "backbone": None, "use_timm_backbone": False},
        **{"encoder_in_channels": [24, 32, 48], "encoder_hidden_dim": 16, "d_model": 16},
        **{
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "decoder_layers": 1,
            "num_labels": CLASSES,
        },
        **{"num_queries": 7, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"decoder_in_channels": [16, 16, 16], "anchor_image_size": None},
    )


_OLDEST = {"Mask2FormerForUniversalSegmentation": 16, "DeformableDetrForObjectDetection": 16}
_OLDEST["RTDetrForObjectDetection"] = 16
"""Deformable attention is GridSample, which opset 16 brought."""
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_labels": CLASSES}
_HEADS = {"num_attention_heads": [1, 2, 2, 4]}
_MOBILE = {"num_hidden_layers": 2, "image_size": 64, "patch_size": 16}

_SEGMENTERS: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "regnety_002": (64, {}),
    "efficientnet_b0": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_050": (64, {}),
    "efficientvit_b0": (64, {}),
    "fastvit_t8": (64, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "hrnet_w18_small": (64, {}),
    "pvt_v2_b0": (64, {}),
    "swin_tiny_patch4_window7_224": (
        56,
        {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "repvit_m0_9": (64, {}),
    "mobileone_s0": (64, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformerv2_s0": (64, {"img_size": 64}),
}
_CLASSIFIERS: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "efficientvit_m0": (64, {"img_size": 64}),
    "maxvit_rmlp_pico_rw_256": (64, {"img_size": 64}),
    "beit_base_patch16_224": (
        64,
        {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 2},
    ),
    "vit_tiny_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56, "depth": 2}),
    "swinv2_tiny_window8_256": (
        64,
        {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    ),
    "levit_128s": (64, {"img_size": 64}),
    "repvgg_a0": (64, {}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64}),
    "densenet121": (64, {}),
}


def _table() -> dict[str, Network]:
    heads = {
        f"{name}+head": Network(partial(Segmenter, name, **settings), size, "timm")
        for name, (size, settings) in _SEGMENTERS.items()
    }
    classifiers = {
        name: Network(partial(_timm, name, **settings), size, "timm")
        for name, (size, settings) in _CLASSIFIERS.items()
    }
    unet = {"unet_resnet18": Network(UNet, 64, "timm")}
    return _of_transformers() | _of_torchvision() | unet | heads | classifiers


def _of_torchvision() -> dict[str, Network]:
    dense = {"weights_backbone": None, "num_classes": CLASSES}
    rows: dict[str, tuple[int, dict[str, Any]]] = {
        "deeplabv3_mobilenet_v3_large": (64, dense),
        "lraspp_mobilenet_v3_large": (64, dense),
        "ssdlite320_mobilenet_v3_large": (96, dense),
        "shufflenet_v2_x0_5": (64, {}),
        "squeezenet1_1": (64, {}),
    }
    return {
        name: Network(partial(_torchvision, name, **settings), size, "torchvision")
        for name, (size, settings) in rows.items()
    }


def _of_transformers() -> dict[str, Network]:
    rows: dict[str, tuple[int, Callable[[], Any] | dict[str, Any]]] = {
        "SegformerForSemanticSegmentation": (64, _STAGES | _HEADS | {"decoder_hidden_size": 16}),
        "GLPNForDepthEstimation": (64, _STAGES | _HEADS | {"decoder_hidden_size": 16}),
        "DPTForDepthEstimation": (64, _dpt),
        "DPTForSemanticSegmentation": (64, _dpt),
        "DepthAnythingForDepthEstimation": (70, _depth_anything),
        "ZoeDepthForDepthEstimation": (64, _zoe_depth),
        "BeitForSemanticSegmentation": (64, _beit),
        "UperNetForSemanticSegmentation": (64, partial(_upernet, _convnext)),
        "Mask2FormerForUniversalSegmentation": (64, _mask2former),
        "MaskFormerForInstanceSegmentation": (64, _maskformer),
        "DetrForObjectDetection": (64, partial(_detr, "DetrConfig")),
        "ConditionalDetrForObjectDetection": (64, partial(_detr, "ConditionalDetrConfig")),
        "DeformableDetrForObjectDetection": (
            64,
            partial(_detr, "DeformableDetrConfig", num_feature_levels=3, decoder_layers=2),
        ),
        "RTDetrForObjectDetection": (64, _rt_detr),
        "YolosForObjectDetection": (
            64,
            {**_VIT, "num_hidden_layers": 2, "image_size": [64, 64], "num_detection_tokens": 7},
        ),
        "MobileViTForSemanticSegmentation": (
            64,
            {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_labels": CLASSES}
            | {"neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "aspp_out_channels": 16},
        ),
        "MobileNetV2ForSemanticSegmentation": (
            64,
            {"depth_multiplier": 0.35, "output_stride": 8, "num_labels": CLASSES},
        ),
        "Swin2SRForImageSuperResolution": (
            32,
            {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}
            | {"window_size": 4, "upsampler": "pixelshuffle"},
        ),
        "PvtForImageClassification": (
            64,
            {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
            | {"num_attention_heads": [1, 2, 2, 4], "mlp_ratios": [2, 2, 2, 2]},
        ),
        "FocalNetForImageClassification": (
            64,
            {"embed_dim": 16, "depths": [1, 1], "image_size": 64},
        ),
    }
    return {
        name: Network(_from_transformers(name, how), size, "transformers", _OLDEST.get(name, 11))
        for name, (size, how) in rows.items()
    }


def _from_transformers(
    name: str, how: Callable[[], Any] | dict[str, Any]
) -> Callable[[], nn.Module]:
    if callable(how):
        return partial(_transformers, name, how)
    return partial(_transformers, name, **how)


NETWORKS = _table()
