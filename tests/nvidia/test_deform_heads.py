"""Somebody else's file with a deformable convolution in each head, for TensorRT's builders."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import degmix_edge
from degmix_edge import backends, config, ops
from degmix_edge.backends import EngineOptions
from degmix_edge.bundle.golden import LOWERED, differences
from degmix_edge.graph.model import to_graph
from degmix_edge.network import IMAGE
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.ops.deform_conv2d import OP
from degmix_edge.passes.forms import lower_for_tensorrt
from degmix_edge.quant.recipe import Recipe

pytestmark = pytest.mark.slow(file_seconds=20)

HEIGHT, WIDTH, CHANNELS = 48, 64, 32
OUTPUTS = {"semseg": 5, "depth": 1, "normals": 3, "human_parts": 7}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"}


def theirs() -> onnx.ModelProto:
    """A stem, and for each task DCNv2, a norm, a ReLU and a 1x1 convolution."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def put(name, values):
        weights.append(numpy_helper.from_array(values.astype("f4"), name))
        return name

    def kernel(name, *shape, gain=1.5):
        return put(name, gain * rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))

    def node(op, inputs, outputs, **attrs):
        nodes.append(helper.make_node(op, inputs, outputs, name=f"{outputs[0]}/{op}", **attrs))

    node("Conv", ["input.1", kernel("w", CHANNELS, 3, 3, 3)], ["c"], pads=[1] * 4, strides=[4, 4])
    node("Relu", ["c"], ["f"])
    for task, channels in OUTPUTS.items():
        name = task[:3]
        both = [f"{name}.o", f"{name}.m"]
        node("Conv", ["f", kernel(f"{name}.wp", 27, CHANNELS, 3, 3)], [f"{name}.p"], pads=[1] * 4)
        node("Split", [f"{name}.p", "sizes"], both, axis=1)
        node("Sigmoid", [both[1]], [f"{name}.s"])
        filters = kernel(f"{name}.wd", CHANNELS, CHANNELS, 3, 3, gain=3)
        operands = ["f", filters, both[0], "", f"{name}.s"]
        node("DeformConv", operands, [f"{name}.d"], kernel_shape=[3, 3], pads=[1] * 4)
        parts = (rng.uniform(0.5, 2, CHANNELS), *rng.normal(size=(2, CHANNELS)))
        norm = [*parts, rng.uniform(0.5, 2, CHANNELS)]
        norm = [put(f"{name}.n{i}", values) for i, values in enumerate(norm)]
        node("BatchNormalization", [f"{name}.d", *norm], [f"{name}.n"])
        node("Relu", [f"{name}.n"], [f"{name}.r"])
        head = 1.5 * rng.normal(size=(channels, CHANNELS, 1, 1)) / np.sqrt(CHANNELS)
        if task == "depth":
            head = np.abs(head)  # a depth below zero would be clamped
        node("Conv", [f"{name}.r", put(f"{name}.wh", head)], [task])
    weights.append(numpy_helper.from_array(np.array([18, 9]), "sizes"))
    size = [HEIGHT // 4, WIDTH // 4]
    image = helper.make_tensor_value_info("input.1", 1, [1, 3, HEIGHT, WIDTH])
    maps = [helper.make_tensor_value_info(t, 1, [1, c, *size]) for t, c in OUTPUTS.items()]
    graph = helper.make_graph(nodes, "theirs", [image], maps, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def built(request, tmp_path_factory, pictures):
    """The precision, the bundle that the product builds of the file, and an image."""
    folder = tmp_path_factory.mktemp(request.param)
    onnx.save(theirs(), folder / "theirs.onnx")
    frames = [picture[:HEIGHT, :WIDTH] for picture in pictures[:3]]
    options = {"calibration": frames, "observer": "min_max"} if request.param == "int8" else {}
    source, target = folder / "theirs.onnx", folder / "x.degmix"
    bundle = degmix_edge.build(source, target, precision=request.param, **options, **IMAGENET)
    return request.param, bundle, frames[0]


def parts(bundle):
    model = bundle.file("model.onnx").read_bytes()
    return model, config.load(Recipe, bundle.file("recipe.yaml"))


def test_equal_heads_are_one_node_which_stores_int8_for_int8_readers(built):
    precision, bundle, _ = built
    model, recipe = parts(bundle)
    assert "BatchNormalization" not in {n.op_type for n in onnx.load_from_string(model).graph.node}
    graph = to_graph(onnx.load_from_string(lower_for_tensorrt(model, recipe, "plugin")))
    nodes = {node.domain: node for node in graph.nodes if node.op == OP}
    readers = {
        domain: {reader.op for out in node.outputs for reader in out.outputs}
        for domain, node in nodes.items()
    }
    if precision != "int8":
        assert readers == {ops.DOMAIN: {"Relu"}}
        assert nodes[ops.DOMAIN].attrs["items"] == len(nodes[ops.DOMAIN].outputs) == 4
        assert len(nodes[ops.DOMAIN].inputs) == 4 * 5
        return
    # The last layers of depth and normals are float, as those of regressions are.
    assert readers == {ops.INT8_DOMAIN: {"Relu"}, ops.INT8_OUT_DOMAIN: {"DequantizeLinear"}}
    for domain, kind in ((ops.INT8_DOMAIN, np.float16), (ops.INT8_OUT_DOMAIN, np.int8)):
        node = nodes[domain]
        assert node.attrs["items"] == len(node.outputs) == 2
        assert len(node.inputs) == 2 * 6
        assert {out.dtype for out in node.outputs} == {np.dtype(kind)}
    assert nodes[ops.INT8_OUT_DOMAIN].attrs["activation"] == "relu"


def test_one_node_gives_the_maps_of_the_product(built):
    """With function bodies, an item a node, against model.onnx with the standard operators."""
    precision, bundle, image = built
    model, recipe = parts(bundle)
    spec = bundle.manifest.network
    lowered = onnx.load_from_string(lower_for_tensorrt(model, recipe, "plugin"))
    ort = backends.find("onnxruntime")
    feeds = {IMAGE: image[None]}
    with ort(spec, model) as wants, ort(spec, ops.attach(lowered).SerializeToString()) as gets:
        want, got = wants.infer(feeds), gets.infer(feeds)
    found = differences(spec, want, got, LOWERED[precision])
    assert found.passed, found.text
    assert want["depth"].std() > 0.1


@pytest.mark.skipif(
    trt_load.unavailable("tensorrt-rtx") is not None, reason="no TensorRT-RTX for this platform"
)
def test_nvidias_builder_takes_the_nodes(built, emulated, monkeypatch):
    """The builder runs no kernel, so the plugin that has those for the processor will do."""
    precision, bundle, _ = built
    monkeypatch.setenv("DEGMIX_TRT_PLUGIN", str(emulated / "libdegmix_trt_emulated.so"))
    model, recipe = parts(bundle)
    options = EngineOptions(dcn="plugin")
    files = backends.find("tensorrt-rtx").build(model, recipe, None, options)
    layers = json.loads(files["layers.json"])["layers"]
    assert not any(layer["kind"] == "GRID_SAMPLE" for layer in layers)
    types = sorted(tuple(layer["types"]) for layer in layers if layer["kind"] == "PLUGIN_V3")
    wants = {
        "fp32": [("FLOAT",) * 4],
        "fp16": [("HALF",) * 4],
        "int8": [("HALF",) * 2, ("INT8",) * 2],
    }
    assert types == wants[precision]
