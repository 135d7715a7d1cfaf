"""Files of both exporters of torch, as they are, are built and compared with themselves."""

import copy

import numpy as np
import onnx
import pytest
import torch
import torchvision
from foreign_networks import (
    HEIGHT,
    INPUT,
    OUTPUTS,
    WIDTH,
    Bytes,
    ChannelsLast,
    export,
    export_module,
    network,
)
from PIL import Image
from torch import nn

import degmix_edge
from degmix_edge.errors import ConfigError
from degmix_edge.graph.adopt import adopt
from degmix_edge.ort import cpu_session
from degmix_edge.passes.forms import simplify_model
from degmix_edge.workflows.compare import compare

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"}
SIZE = (HEIGHT, WIDTH)
pytestmark = pytest.mark.slow(file_seconds=40)


@pytest.fixture
def here(tmp_path, monkeypatch, pictures):
    """A folder with photographs; tests run in it."""
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pictures[:4]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_the_same(file: str, *, size=None, relative: float = 1e-4, **wants) -> None:
    """A bundle of the file gives what the file itself gives."""
    options = {"outputs": OUTPUTS, "precision": "fp32", "backend": "onnxruntime", **wants}
    degmix_edge.build(file, "x.degmix", size=size, **options)
    found = compare("x.degmix", file, data="photos", max_disagreement=relative)
    assert found.passed, found.verdict
    assert found.against == "ONNX"
    assert {tensor.name for tensor in found.tensors} >= set(OUTPUTS.values())
    for tensor in found.tensors:
        if tensor.equal is None:
            assert tensor.relative <= relative, tensor
        else:
            assert tensor.equal >= 1 - (relative if relative > 1e-4 else 0), tensor
    with degmix_edge.load("x.degmix") as session:
        maps = session("photos/0.png")
    assert len(np.unique(np.asarray(maps["semseg"]))) > 1
    assert np.std(np.asarray(maps["depth"])) > 0


@pytest.mark.parametrize(
    ("dynamo", "opset", "dynamic"),
    [
        *((False, 11, True), (False, 13, False), (False, 17, True)),
        *((True, 18, False), (True, 21, True), (True, 23, False)),
    ],
)
def test_exporters(here, dynamo, opset, dynamic):
    export(here / "mine.onnx", dynamo=dynamo, opset=opset, dynamic=dynamic)
    assert onnx.load("mine.onnx").opset_import[0].version == opset
    is_the_same("mine.onnx", size=SIZE if dynamic else None, **IMAGENET)


@pytest.mark.parametrize(
    ("dtype", "kind", "relative"),
    [
        (torch.float16, onnx.TensorProto.FLOAT16, 1e-2),
        (torch.bfloat16, onnx.TensorProto.BFLOAT16, 1e-4),  # both in float32: no CPU has it
    ],
)
def test_half_floats_in_another_file(here, dtype, kind, relative):
    """Narrow weights in a file beside the model."""
    half = copy.deepcopy(network()).to(dtype)
    export_module(here / "whole.onnx", half, torch.randn(1, 3, *SIZE).to(dtype))
    model = onnx.load("whole.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == kind
    onnx.save(model, "mine.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (here / "w.bin").stat().st_size > 100_000
    is_the_same("mine.onnx", relative=relative, **IMAGENET)
    weights = onnx.load("x.degmix/model.onnx").graph.initializer
    assert kind not in {weight.data_type for weight in weights}


def test_channels_last(here):
    """Neither its Transpose nor ours is left in the bundle."""
    export_module(here / "mine.onnx", ChannelsLast(), torch.randn(1, *SIZE, 3))
    is_the_same("mine.onnx", size=SIZE, **IMAGENET)
    plain = here / "plain.onnx"
    export(plain, dynamo=False, opset=13, dynamic=False)
    degmix_edge.build(plain, "plain.degmix", precision="fp32", outputs=OUTPUTS, **IMAGENET)
    nodes = [len(onnx.load(f"{name}.degmix/model.onnx").graph.node) for name in ("x", "plain")]
    assert nodes[0] == nodes[1]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_bytes(here, color):
    """A network with its normalisation inside needs none, and may want another order."""
    export_module(here / "mine.onnx", Bytes(), torch.zeros(1, *SIZE, 3, dtype=torch.uint8))
    identity = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 255, "color": color}
    is_the_same("mine.onnx", size=SIZE, **({"color": color} if color == "rgb" else identity))
    model = onnx.load("x.degmix/model.onnx")
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len([c for c in casts if c.output[0] != "semseg"]) == 1  # the one of every bundle
    with pytest.raises(ConfigError, match="mine.onnx: its input is uint8, so that it normalises"):
        degmix_edge.build(
            "mine.onnx", "y.degmix", precision="fp32", outputs=OUTPUTS, size=SIZE, **IMAGENET
        )


def test_the_command_line(here, cli):
    """INT8 of a file with dynamic axes; what is missing or contradicts it is said."""
    export(here / "mine.onnx", dynamo=False, opset=11, dynamic=True)
    build = ["build", "engine", here / "mine.onnx", "--calib", here / "photos"]
    build += ["--mean", 0, 0, 0, "--std", 1, 1, 1, "--scale", 255, "--backend", "onnxruntime"]
    build += ["--color", "rgb"]
    build += [part for own, task in OUTPUTS.items() for part in ("--map", f"{own}={task}")]
    code, _, err = cli(*build)
    assert code == 6
    assert "dynamic axes height ('h') and width ('w')" in " ".join(err.split())
    assert "--size HEIGHTxWIDTH" in " ".join(err.split())
    assert cli(*build, "--size", 64)[0] == 3
    code, _, err = cli(*build, "--size", "{}x{}".format(*SIZE))
    assert code == 0, err
    photos = ("--data", here / "photos", "--max-disagreement", 30)
    code, _, err = cli("compare", "robot.degmix", here / "mine.onnx", *photos)
    assert code == 0, err


def swin():
    """Shifted windows: rolls, masks and grids that depend on the size."""
    made = torchvision.models.SwinTransformer([4, 4], 12, [1, 2], [1, 2], [4, 4])
    return made.features


def convnext():
    setting = torchvision.models.convnext.CNBlockConfig
    blocks = [setting(8, 16, 1), setting(16, None, 1)]
    return torchvision.models.ConvNeXt(blocks, layer_scale=1.0).features


def lraspp():
    made = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    return nn.Sequential(made.backbone, made.classifier)


@pytest.mark.parametrize(
    ("make", "dynamo", "opset"),
    [
        *((swin, False, 11), (swin, False, 17), (convnext, False, 11), (convnext, True, 21)),
        *((lraspp, False, 11), (lraspp, False, 17)),
    ],
)
def test_families_of_torchvision(tmp_path, make, dynamo, opset):
    """What adopting and the passes leave is the same function, without arithmetic on shapes."""
    torch.manual_seed(0)
    module = make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    module.train()(torch.randn(2, 3, *SIZE))
    file = tmp_path / "mine.onnx"
    export(file, dynamo=dynamo, opset=opset, dynamic=True, module=module.eval(), outputs=["y"])
    model = onnx.load(file)
    simple = simplify_model(adopt(model, "mine.onnx", size=SIZE), ["y"])
    image = torch.randn(1, 3, *SIZE).numpy()
    feeds = {INPUT: image}
    want, got = (
        cpu_session(m.SerializeToString(), optimization="basic", num_threads=1).run(None, feeds)[0]
        for m in (model, simple)
    )
    assert want.std() > 1e-3
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    operators = {node.op_type for node in simple.graph.node}
    assert not operators & {"Shape", "Range", "ConstantOfShape", "Where", "Equal", "If", "Cast"}
