"""Slow references against ONNX Runtime; function bodies; graphs of plugins that run anywhere."""

from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from deform_graphs import deform_graph, quantized, run

from degmix_edge import ops
from degmix_edge.graph.model import append, constant, to_graph, to_model
from degmix_edge.ops import deform_conv2d, deform_sample
from degmix_edge.passes._base import apply
from degmix_edge.passes.fuse_deform_output import FuseDeformOutput
from degmix_edge.passes.lower_deform_sample import LowerDeformSample
from degmix_edge.passes.lower_deform_to_plugin import LowerDeformToPlugin

CASES = [
    {"groups": 3, "group": 1},
    {"groups": 2, "group": 2, "kernel": (3, 3), "pads": [1, 0, 1, 2], "mask": True},
    {"groups": 1, "group": 4, "kernel": (2, 3), "strides": [2, 1], "dilations": [1, 2]},
]


def both(graph: gs.Graph, feeds):
    """Of a graph, and of its plugin form with function bodies."""
    want = run(to_model(graph.copy(), {}), feeds)
    step = LowerDeformToPlugin()
    assert [o.rewrites for o in apply(graph, [step, step])][1] == 0
    model = ops.attach(to_model(graph, {}))
    onnx.checker.check_model(model)
    return want, run(model, feeds), model


@pytest.mark.parametrize("case", CASES, ids=["per channel", "modulated", "strided"])
def test_the_reference_the_standard_operator_and_the_plugin_form_agree(case):
    graph, feeds = deform_graph(np.random.default_rng(0), n=2, size=(6, 7), **case)
    node = graph.nodes[0]
    weight, bias = node.inputs[1].values, node.inputs[3].values
    attrs = dict(node.attrs)
    slow = deform_conv2d.reference(
        feeds["x"], weight, feeds["offset"], bias, feeds.get("mask"), **attrs
    )
    want, got, model = both(graph, feeds)
    np.testing.assert_allclose(want, slow, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got, want) if "kernel" in case else np.testing.assert_allclose(
        got, want, rtol=1e-5, atol=1e-5
    )
    (function,) = model.functions
    assert function.name == (deform_conv2d.OP if "kernel" in case else deform_sample.OP)


def test_every_attribute_is_written_out():
    graph, _ = deform_graph(np.random.default_rng(0), kernel=(3, 3), group=2)
    apply(graph, [LowerDeformToPlugin()])
    assert set(deform_conv2d.ATTRIBUTES) <= set(graph.nodes[0].attrs)


def test_the_sampling_alone():
    rng = np.random.default_rng(1)
    value = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    offset = 4 * rng.normal(size=(2, 6, 5, 4)).astype(np.float32)
    offset[0, 0, 0, :] = [np.nan, np.inf, -np.inf, 1e30]
    offset[1, 2, 0, :] = [-1, -0.5, 4.5, 5]  # around the upper and lower border
    got = deform_sample.reference(value, offset)
    assert np.isfinite(got).all()
    assert not got[0, 0, 0].any()
    x = int(np.floor(offset[1, 3, 0, 1] + 1))
    if 0 <= x < 3:
        assert abs(got[1, 1, 0, 1]) <= 0.5 * np.abs(value[1, 1, 0]).max() + 1e-6


def test_int8_values_are_sampled_on_their_own_grid():
    graph, feeds = quantized(np.random.default_rng(5), amax=3.0)
    want, got, model = both(graph, feeds)
    sampler = next(n for n in model.graph.node if n.op_type == deform_sample.OP)
    assert sampler.domain == ops.INT8_DOMAIN
    makers = {out: n.op_type for n in model.graph.node for out in n.output}
    assert makers[sampler.input[0]] == "QuantizeLinear"  # no DQ between: one scale
    reader = next(n for n in model.graph.node if sampler.output[0] in n.input)
    assert reader.op_type == "DequantizeLinear"
    # One more rounding of each sample, to half a step, under four weights.
    graph = to_graph(model)
    conv = next(n for n in graph.nodes if n.op == "Conv")
    dq = conv.inputs[1].inputs[0]
    weight = dq.inputs[0].values.astype(np.float64) * dq.inputs[1].values.reshape(-1, 1, 1, 1)
    step = 0.5 * 3.0 / 127 * np.abs(weight).sum(axis=(1, 2, 3)).max()
    assert np.abs(got - want).max() <= step + 1e-5
    assert np.abs(got - want).max() > 0


STEP = 0.05  # of the output of an INT8 convolution, whose largest value is 5.1


def quantized_output(activation: str, low: type = np.int8):
    """An INT8 DCNv2 (-> activation) -> Q -> DQ -> y."""
    rng = np.random.default_rng(6)
    graph, feeds = quantized(rng, 3.0, kernel=(3, 3), pads=[1] * 4, groups=2, mask=True)
    (node,) = [n for n in graph.nodes if n.op == "DeformConv"]
    out = node.outputs[0]
    out.name = "sum"
    graph.outputs.clear()
    if activation:
        out = append(graph, activation, [out], "active", np.float32)
    scale, zero = constant("os", STEP), constant("oz", 0, low)
    q = append(graph, "QuantizeLinear", [out, scale, zero], "q", low)
    y = append(graph, "DequantizeLinear", [q, scale, zero], "y", np.float32)
    y.shape = node.outputs[0].shape
    graph.outputs.append(y)
    return to_graph(to_model(graph, {})), feeds


@pytest.mark.parametrize("activation", ["", "Relu"])
def test_an_int8_convolution_stores_int8(activation):
    graph, feeds = quantized_output(activation)
    want = run(to_model(graph.copy(), {}), feeds)
    step = FuseDeformOutput()
    assert [o.rewrites for o in apply(graph, [LowerDeformToPlugin(), step, step])] == [1, 1, 0]
    assert Counter(n.op for n in graph.nodes)["QuantizeLinear"] == 1  # that of the values
    (node,) = [n for n in graph.nodes if n.op == deform_conv2d.OP]
    assert node.attrs["activation"] == (activation.lower() or "none")
    model = ops.attach(to_model(graph, {}))
    onnx.checker.check_model(model)
    got = run(model, feeds)
    steps = np.abs(got - want) / STEP
    assert steps.max() <= 1 + 1e-6  # a sum in another order may lie on the other side of a half
    assert (steps > 0.5).mean() < 0.01
    assert (want < 0).any() == (not activation)
    assert np.unique(want).size > 20


@pytest.mark.parametrize("case", ["uint8", "Sigmoid", "two readers", "an output", "float weights"])
def test_an_output_that_cannot_be_int8_is_left_alone(case):
    graph, _ = quantized_output(
        "Sigmoid" if case == "Sigmoid" else "", np.uint8 if case == "uint8" else np.int8
    )
    (node,) = [n for n in graph.nodes if n.op == "DeformConv"]
    if case == "two readers":
        graph.outputs.append(append(graph, "Neg", [node.outputs[0]], "again", np.float32))
    if case == "an output":
        graph.outputs.append(node.outputs[0])
    if case == "float weights":
        node.inputs[1] = constant("floats", np.ones(node.inputs[1].shape))
    outcomes = apply(graph, [LowerDeformToPlugin(), FuseDeformOutput()])
    assert [o.rewrites for o in outcomes] == [1, 0]


def test_what_is_no_per_channel_sampling_is_left_alone():
    for case in CASES[1:]:
        graph, _ = deform_graph(np.random.default_rng(0), size=(6, 7), **case)
        assert apply(graph, [LowerDeformSample()])[0].rewrites == 0


def test_a_whole_network_for_the_plugin_runs_in_onnxruntime(bundles, pictures):
    for precision in ("fp32", "int8"):
        model = onnx.load(bundles[precision].file("model.onnx"))
        graph = to_graph(model)
        apply(graph, [LowerDeformToPlugin()])
        lowered = ops.attach(to_model(graph, {}))
        assert not any(node.op_type == "DeformConv" for node in lowered.graph.node)
        feeds = {"image": pictures[0][None]}
        want, got = run(model, feeds, "depth"), run(lowered, feeds, "depth")
        allowed = 1e-5 if precision == "fp32" else 0.02
        assert np.abs(got - want).mean() <= allowed * np.abs(want).max()
