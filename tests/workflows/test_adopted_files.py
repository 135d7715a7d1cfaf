"""Files of both exporters of torch, as they are, are built and compared with themselves."""

import copy

import numpy as np
import onnx
import pytest
import torch
from foreign_networks import (
    HEIGHT,
    OUTPUTS,
    WIDTH,
    Bytes,
    ChannelsLast,
    export,
    export_module,
    network,
)
from PIL import Image

import degmix_edge
from degmix_edge.errors import ConfigError
from degmix_edge.workflows.compare import compare

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZE = (HEIGHT, WIDTH)


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
        *((True, 18, False), (True, 21, True), (True, 23, True)),
    ],
)
@pytest.mark.slow(file_seconds=60)
def test_exporters(here, dynamo, opset, dynamic):
    export(here / "mine.onnx", dynamo=dynamo, opset=opset, dynamic=dynamic)
    assert onnx.load("mine.onnx").opset_import[0].version == opset
    is_the_same("mine.onnx", size=SIZE if dynamic else None, **IMAGENET)


def test_half_floats_in_another_file(here):
    """FP16 weights in a file beside the model."""
    half = copy.deepcopy(network()).half()
    export_module(here / "whole.onnx", half, torch.randn(1, 3, *SIZE).half())
    model = onnx.load("whole.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    onnx.save(model, "mine.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (here / "w.bin").stat().st_size > 100_000
    is_the_same("mine.onnx", relative=1e-2, **IMAGENET)
    weights = onnx.load("x.degmix/model.onnx").graph.initializer
    assert onnx.TensorProto.FLOAT16 not in {weight.data_type for weight in weights}


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
    is_the_same("mine.onnx", size=SIZE, **({} if color == "rgb" else identity))
    model = onnx.load("x.degmix/model.onnx")
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len([c for c in casts if c.output[0] != "semseg"]) == 1  # the one of every bundle
    with pytest.raises(ConfigError, match="mine.onnx: its input is uint8, so that it normalises"):
        degmix_edge.build(
            "mine.onnx", "y.degmix", precision="fp32", outputs=OUTPUTS, size=SIZE, **IMAGENET
        )
