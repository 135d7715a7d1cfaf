"""A torch network with names of its own, and the files that exporters write of it."""

import functools
import logging
import warnings
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import nn

HEIGHT, WIDTH = 64, 96
OUTPUTS = {"seg": "semseg", "dist": "depth", "surf": "normals"}
INPUT = "pixels"


class Theirs(nn.Module):
    """MobileNetV3, a feature pyramid and three heads, one of them at the size of the image."""

    def __init__(self):
        super().__init__()
        features = torchvision.models.mobilenet_v3_small(weights=None).features
        self.early, self.late = features[:4], features[4:9]
        self.pyramid = torchvision.ops.FeaturePyramidNetwork([24, 48], 16)
        self.attention = nn.Linear(16, 16)
        self.heads = nn.ModuleList(nn.Conv2d(16, n, 1) for n in (5, 1, 3))

    def forward(self, image):
        early = self.early(image)
        levels = self.pyramid({"early": early, "late": self.late(early)})
        n, c, h, w = levels["early"].shape
        tokens = levels["early"].view(n, c, h * w).transpose(1, 2)
        tokens = tokens * self.attention(tokens).softmax(1)
        joint = levels["early"] + tokens.transpose(1, 2).reshape(n, c, h, w)
        seg, dist, surf = (head(joint) for head in self.heads)
        size = image.shape[-2:]
        return F.interpolate(seg, size, mode="bilinear"), dist.abs(), F.interpolate(surf, size)


@functools.cache
def network():
    """The network with norms that fit random pictures, so that no activation dies out."""
    torch.manual_seed(0)
    module = Theirs()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    module.train()(torch.randn(4, 3, HEIGHT, WIDTH))
    return module.eval()


def export(
    path: Path, *, dynamo: bool, opset: int, dynamic: bool, module=None, outputs=OUTPUTS
) -> None:
    """Write a network's file as torch's old or new exporter does."""
    names = {"input_names": [INPUT], "output_names": list(outputs)}
    axes: dict = {}
    if dynamic and dynamo:
        axis = torch.export.Dim.DYNAMIC
        axes = {"dynamic_shapes": ({0: axis, 2: axis, 3: axis},)}
    elif dynamic:
        axes = {"dynamic_axes": {INPUT: {0: "n", 2: "h", 3: "w"}}}
    # What is exported with dynamic axes has another size than what is built.
    size = (2, 3, 96, 128) if dynamic else (1, 3, HEIGHT, WIDTH)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.randn(*size)
        kind = {"dynamo": dynamo, "opset_version": opset, "verbose": False}
        target = None if dynamo else path
        program = torch.onnx.export(module or network(), (image,), target, **kind, **names, **axes)
    if dynamo:
        onnx.save(program.model_proto, path)


def export_module(path: Path, module: nn.Module, image: torch.Tensor) -> None:
    """Write the file of a variant, whose first three axes are dynamic where channels are last."""
    axes = {"dynamic_axes": {INPUT: {0: "n", 1: "h", 2: "w"}}} if image.shape[-1] == 3 else {}
    names = {"input_names": [INPUT], "output_names": list(OUTPUTS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (image,), path, dynamo=False, opset_version=13, **names, **axes
        )


class Bytes(nn.Module):
    """The network behind its own normalisation: uint8 `(N, H, W, 3)` in, `(N, h, w, C)` out."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, image):
        planes = image.permute(0, 3, 1, 2).float()
        return tuple(out.permute(0, 2, 3, 1) for out in self.inner(planes / 127.5 - 1))


class ChannelsLast(nn.Module):
    """The network with float `(N, H, W, 3)` in and `(N, h, w, C)` out, as TensorFlow has it."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, image):
        outputs = self.inner(image.permute(0, 3, 1, 2))
        return tuple(out.permute(0, 2, 3, 1) for out in outputs)
