"""Both graphs on the same input, over shapes, groups, strides, pads and offsets beyond borders."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from deform_graphs import deform_graph, quantized, run
from hypothesis import given, settings
from hypothesis import strategies as st

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import constant, to_graph, to_model
from degmix_edge.ops.deform_sample import AT_OP, OP, position_offsets, reference
from degmix_edge.passes._base import apply
from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample
from degmix_edge.passes.requantize_samples import RequantizeSamples

SIDES = st.integers(1, 3)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    group=st.integers(1, 3),
    groups=st.integers(1, 4),
    kernel=st.tuples(SIDES, SIDES),
    strides=st.tuples(SIDES, SIDES),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    dilations=st.tuples(SIDES, SIDES),
    size=st.tuples(st.integers(7, 9), st.integers(7, 9)),
    mask=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_deformable_convolution(seed, strides, dilations, **options):
    rng = np.random.default_rng(seed)
    graph, feeds = deform_graph(rng, strides=list(strides), dilations=list(dilations), **options)
    want = run(to_model(graph.copy(), {}), feeds)
    step = LowerDeformToGridsample()
    assert [o.rewrites for o in apply(graph, [step, step])] == [1, 0]
    got = run(to_model(graph, {}), feeds)
    assert np.abs(got - want).max() <= 2e-5 * max(np.abs(want).max(), 1)
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert conv.name == "block/DeformConv"


@pytest.mark.parametrize("has_table", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (3, 3), (1, 5)])
def test_a_sampling_alone(has_table, size):
    """What `lower_deform_sample` and `split_deform_positions` leave."""
    rng = np.random.default_rng(0)
    value = gs.Variable("value", np.float32, [2, 4, *size])
    offset = gs.Variable("offset", np.float32, [2, 8, *size])
    table = rng.normal(size=(9, 4, 4)).astype(np.float32)
    inputs = [value, offset, *([constant("table", table)] if has_table else [])]
    op, y = AT_OP if has_table else OP, gs.Variable("y", np.float32, [2, 4, *size])
    node = gs.Node(op, "block/sample", {"channels": 4}, inputs, [y], domain="degmix")
    last = gs.Variable("z", np.float32, [2, 4, *size])
    graph = gs.Graph([node, gs.Node("Relu", "r", {}, [y], [last])], [value, offset], [last])
    graph.opset = 20
    step = LowerDeformToGridsample()
    assert [o.rewrites for o in apply(graph, [step, step])] == [1, 0]
    feeds = {t.name: rng.normal(size=t.shape).astype(np.float32) for t in (value, offset)}
    own = position_offsets(table, *size) if has_table else 0
    want = np.maximum(reference(feeds["value"], feeds["offset"] + own), 0)
    got = run(to_model(graph, {}), feeds, "z")
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_large_sampling_stays_for_a_builder_that_has_it():
    shape = [1, 2, 4, 4]
    value, offset = (gs.Variable(n, np.float32, [1, s, 4, 4]) for n, s in (("v", 2), ("o", 4)))
    for least, rewrites in ((32, 0), (33, 1), (None, 1)):
        y = gs.Variable("y", np.float32, shape)
        node = gs.Node(OP, "block/sample", {}, [value, offset], [y], domain="degmix")
        graph = gs.Graph([node], [value, offset], [y], opset=20)
        assert apply(graph, [LowerDeformToGridsample(least)])[0].rewrites == rewrites


@pytest.mark.parametrize("size", [(1, 5), (6, 1), (1, 1)])
def test_sides_of_one_pixel(size):
    graph, feeds = deform_graph(np.random.default_rng(0), groups=3, group=1, size=size)
    feeds["offset"] = np.random.default_rng(1).uniform(-1.5, 1.5, feeds["offset"].shape)
    feeds["offset"] = feeds["offset"].astype(np.float32)
    want = run(to_model(graph.copy(), {}), feeds)
    apply(graph, [LowerDeformToGridsample()])
    np.testing.assert_allclose(run(to_model(graph, {}), feeds), want, atol=1e-5)


def test_a_dynamic_size_is_refused():
    graph, _ = deform_graph(np.random.default_rng(0))
    graph.inputs[0].shape = [1, 2, "height", 4]
    with pytest.raises(GraphError, match=r"block/DeformConv.*is not static NCHW"):
        apply(graph, [LowerDeformToGridsample()])


def test_products_behind_the_sampling_are_int8_with_the_values_scale():
    graph, feeds = quantized(np.random.default_rng(3), amax=3.0)
    want = run(to_model(graph.copy(), {}), feeds)
    apply(graph, [LowerDeformToGridsample()])
    graph = to_graph(to_model(graph, {}))
    step = RequantizeSamples()
    assert [o.rewrites for o in apply(graph, [step, step])] == [1, 0]
    conv = next(node for node in graph.nodes if node.op == "Conv")
    pair = conv.inputs[0].inputs[0]
    assert pair.op == "DequantizeLinear"
    assert float(pair.inputs[1].values) == pytest.approx(3.0 / 127)
    sampler = next(node for node in graph.nodes if node.op == "GridSample")
    assert not any(n.op == "DequantizeLinear" for n in sampler.inputs[0].inputs[0].inputs[0].inputs)
    got = run(to_model(graph, {}), feeds)
    # Rounded once, behind the sampling and not before it: half a step of each, times the weights.
    weight = np.abs(want).max()
    assert np.abs(got - want).max() <= 0.05 * weight
