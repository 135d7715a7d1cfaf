"""Graphs that TensorRT's builders get, run in ONNX Runtime through the function bodies."""

import itertools
import time
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from conftest import NETWORK, lively, saved, task_specs
from degmix_training import checkpoint, models
from degmix_training.config import network_config
from degmix_training.export import export_checkpoint, network_spec

from degmix_edge import backends, ops
from degmix_edge.bundle.golden import LOWERED, differences
from degmix_edge.graph.model import to_graph
from degmix_edge.network import IMAGE
from degmix_edge.ops import deform_offsets
from degmix_edge.ops.deform_sample import position_offsets
from degmix_edge.passes._base import apply
from degmix_edge.passes.forms import deploy_model, lower_for_tensorrt, quantize_model
from degmix_edge.passes.group_deform_items import GroupDeformItems
from degmix_edge.passes.lower_deform_offsets import LowerDeformOffsets
from degmix_edge.passes.lower_deform_to_plugin import LowerDeformToPlugin
from degmix_edge.passes.pipeline import FORMS
from degmix_edge.passes.split_deform_positions import SplitDeformPositions
from degmix_edge.quant.rules import choose
from degmix_edge.quant.sites import observed_tensors

pytestmark = pytest.mark.slow(file_seconds=20)

CASES = {
    "published": {"dim": 64, "depth": 2},
    "dcnv2": {"dim": 16, "deform_kernel": 3, "deform_groups": 2},
}


@pytest.fixture(scope="module", params=CASES)
def deployed(request, tmp_path_factory):
    """A deployed float graph of DeMTG, and its spec."""
    network = {k: v for k, v in NETWORK.items() if k != "patch_size"} | CASES[request.param]
    specs = task_specs(("semseg", "depth"))
    torch.manual_seed(0)
    made = lively(models.find("demtg").Model(network_config("demtg", network), specs))
    path = saved(tmp_path_factory.mktemp("lower") / "x.safetensors", "demtg", made, network, specs)
    loaded = checkpoint.load(path)
    graph, spec, _ = deploy_model(export_checkpoint(loaded), network_spec(loaded))
    return request.param, graph, spec


@pytest.fixture(scope="module")
def products(deployed, calibrate):
    """What a build writes as model.onnx, and its recipe, by precision."""
    _, graph, spec = deployed
    made = {}
    for precision in ("fp32", "fp16", "int8"):
        recipe = choose(to_graph(graph), spec, precision)
        ranges = None
        if precision == "int8":
            ranges = calibrate(graph, observed_tensors(to_graph(graph), recipe))
        model = quantize_model(graph, recipe, ranges, spec)
        made[precision] = (model.SerializeToString(), recipe)
    return made


def lowered(products, precision: str, form: str) -> onnx.ModelProto:
    """What a TensorRT builder gets."""
    return onnx.load_from_string(lower_for_tensorrt(*products[precision], form))


def maps(spec, model: bytes, image):
    with backends.find("onnxruntime")(spec, model) as runs:
        return runs.infer({IMAGE: image})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_form_gives_the_maps(deployed, products, pictures, form, precision):
    spec, image = deployed[2], pictures[0][None]
    want = maps(spec, products[precision][0], image)
    got = maps(spec, ops.attach(lowered(products, precision, form)).SerializeToString(), image)
    if precision == "fp32":
        np.testing.assert_allclose(got["depth"], want["depth"], rtol=1e-4, atol=1e-6)
    found = differences(spec, want, got, LOWERED[precision])
    assert found.passed, found.text


def test_what_stands_in_each_form(deployed, products):
    kinds: dict[tuple[str, str], Counter[str]] = {}
    nodes: dict[tuple[str, str], Counter[str]] = {}
    for form, precision in itertools.product(FORMS, ("fp16", "int8")):
        graph = lowered(products, precision, form).graph
        kinds[form, precision] = Counter()
        nodes[form, precision] = Counter(n.op_type for n in graph.node)
        for node in graph.node:
            items = next((a.i for a in node.attribute if a.name == "items"), 1)
            kinds[form, precision][node.op_type] += items
    for precision in ("fp16", "int8"):
        plugin, ours = kinds["plugin", precision], kinds["offsets", precision]
        assert kinds["builtin", precision]["DeformConv"] == 4 or deployed[0] == "dcnv2"
        assert not kinds["gridsample", precision]["DeformConv"]
        if deployed[0] == "published":
            assert plugin["DegmixDeformSampleAt"] == 4
            assert not plugin["DegmixDeformSample"]
            assert not ours["DegmixDeformSample"]
            assert ours["DegmixDeformSampleAt"] == ours["DegmixDeformOffsets"] == 4
            assert ours["Conv"] == plugin["Conv"] - 4
            # Two tasks of two depths each: a node a depth has both tasks.
            assert nodes["plugin", precision]["DegmixDeformSampleAt"] == 2
            assert nodes["offsets", precision]["DegmixDeformSampleAt"] == 2
            assert nodes["offsets", precision]["DegmixDeformOffsets"] == 2
        else:
            assert plugin["DegmixDeformConv2d"] == ours["DegmixDeformConv2d"] == 2
            assert nodes["plugin", precision]["DegmixDeformConv2d"] == 1
            assert nodes["offsets", precision]["DegmixDeformConv2d"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_casts_of_the_product_hide_nothing(products, form):
    """The FP16 model of a bundle is lowered to what its float network is."""
    half, recipe = products["fp16"]
    graphs = [
        onnx.load_from_string(lower_for_tensorrt(model, recipe, form)).graph
        for model in (half, products["fp32"][0])
    ]
    got, want = (Counter(node.op_type for node in graph.node) for graph in graphs)
    assert got == want


def test_a_parser_gets_no_functions_that_it_could_take_in_place_of_the_plugin(products):
    for precision, form in itertools.product(products, FORMS):
        assert not lowered(products, precision, form).functions


def test_types_of_the_plugins_inputs(products):
    """Offsets, masks and positions stay FP32; maps without positions do not."""
    for form, convolves in (("plugin", "Conv"), ("offsets", "DegmixDeformOffsets")):
        model = onnx.shape_inference.infer_shapes(lowered(products, "fp16", form))
        graph = to_graph(model)
        for node in graph.nodes:
            types = ["half" if t.dtype == np.float16 else str(t.dtype) for t in node.inputs]
            items = node.attrs.get("items", 1)
            if node.op == "DegmixDeformSampleAt":
                assert types == ["half", "half", "float32"] * items
                convolution = node.inputs[1].inputs[0]
                assert (convolution.op, convolution.inputs[1].dtype) == (convolves, np.float16)
                assert convolution.inputs[0].dtype == np.float16
                taps = convolution.inputs[0].inputs[0]
                assert (taps.op, taps.inputs[1].dtype) == ("Conv", np.float16)
            if node.op == "DegmixDeformConv2d":
                assert types == ["half", "half", "float32", "half", "float32"] * 2


def test_types_of_the_plugins_inputs_in_an_int8_engine(products):
    """Values and weights are INT8 as the product has them; offsets are not."""
    model = onnx.shape_inference.infer_shapes(ops.attach(lowered(products, "int8", "plugin")))
    types = {"DegmixDeformSampleAt": set(), "DegmixDeformConv2d": set()}
    for node in to_graph(model).nodes:
        if node.op in types:
            types[node.op].add(tuple(str(t.dtype) for t in (*node.inputs, *node.outputs)))
            assert node.domain == ops.INT8_DOMAIN
    floats = ("float32", "float16", "float32", "float32", "float16")  # offset .. mask, output
    wants = {
        "DegmixDeformSampleAt": {("int8", "float16", "float32", "int8")},
        "DegmixDeformConv2d": {("int8", "int8", *floats)},
    }
    found = {op: kinds for op, kinds in types.items() if kinds}
    assert len(found) == 1
    assert found == {op: wants[op] for op in found}


@pytest.mark.parametrize("deployed", ["published"], indirect=True)
def test_positions_are_added_where_no_convolution_rounds_them(deployed):
    """The offsets of an FP16 convolution that sums positions are wrong by tenths of a pixel."""
    recipe = choose(to_graph(deployed[1]), deployed[2], "fp16")
    graph = to_graph(deployed[1])
    step = SplitDeformPositions()
    passes = [LowerDeformToPlugin(), step, step]
    assert [o.rewrites for o in apply(graph, passes)][1:] == [4, 0]
    with_positions = {
        n.inputs[1].inputs[0].name for n in graph.nodes if n.op == "DegmixDeformSampleAt"
    }
    lowered_graph = to_graph(
        onnx.load_from_string(lower_for_tensorrt(deployed[1].SerializeToString(), recipe, "plugin"))
    )
    for node in lowered_graph.nodes:
        if node.name in with_positions:
            assert len(node.inputs) == 2  # the bias is in the table
            assert node.inputs[0].inputs[0].op == "Conv"


@pytest.mark.parametrize("deployed", ["published"], indirect=True)
def test_offsets_of_our_own_are_idempotent_and_need_the_positions(deployed):
    graph = to_graph(deployed[1])
    apply(graph, [LowerDeformToPlugin()])
    other = graph.copy()
    steps = [SplitDeformPositions(), LowerDeformOffsets()]
    assert [o.rewrites for o in apply(graph, [*steps, *steps])] == [4, 4, 0, 0]
    for node in other.nodes:
        if node.op == "Add" and "offset" in node.name:
            node.inputs[1].values = node.inputs[1].values ** 2  # no affine function any more
    assert [o.rewrites for o in apply(other, steps)] == [0, 0]


def test_the_table_of_positions_is_the_convolution_of_positions():
    rng = np.random.default_rng(0)
    height, width, channels = 5, 7, 8
    weight = rng.normal(size=(2 * channels, 9, 3, 3))
    bias = rng.normal(size=2 * channels)
    positions = np.zeros((18, height, width))
    positions[:9] = np.arange(height)[None, :, None] + rng.normal(size=(9, 1, 1))
    positions[9:] = np.arange(width)[None, None] + rng.normal(size=(9, 1, 1))
    table = deform_offsets.position_table(weight, bias, positions)
    got = position_offsets(table, height, width)[None]
    padded = torch.nn.functional.pad(torch.tensor(positions)[None], (1, 1, 1, 1))
    want = torch.nn.functional.conv2d(padded, torch.tensor(weight), torch.tensor(bias), groups=2)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-12)
    assert deform_offsets.position_table(weight, bias, positions[:, :2]) is None
    assert deform_offsets.position_table(weight, bias, rng.normal(size=(18, 5, 7))) is None


def test_the_table_of_a_published_mixer_takes_milliseconds():
    """112x144 with 256 channels: a convolution over the whole map would take seconds."""
    rng = np.random.default_rng(0)
    positions = np.zeros((18, 112, 144))
    positions[:9] += np.arange(112)[:, None]
    positions[9:] += np.arange(144)
    weight = rng.normal(size=(512, 9, 3, 3))
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        table = deform_offsets.position_table(weight, None, positions)
        taken.append(time.perf_counter() - start)
    assert table is not None
    assert table.shape == (9, 256, 4)
    assert min(taken) < 0.1


@pytest.mark.parametrize("deployed", ["published"], indirect=True)
def test_what_needs_another_ones_result_is_not_in_its_launch(deployed):
    graph = to_graph(deployed[1])
    apply(graph, [LowerDeformToPlugin()])
    step = GroupDeformItems()
    assert [o.rewrites for o in apply(graph, [step, step])] == [4, 0]
    samplers = [n for n in graph.nodes if n.op == "DegmixDeformSample"]
    assert [n.attrs["items"] for n in samplers] == [2, 2]
    depths = [{name.split(".")[2] for name in n.name.split(" + ")} for n in samplers]
    assert sorted(depths) == [{"0"}, {"1"}]  # mixers.TASK.DEPTH
