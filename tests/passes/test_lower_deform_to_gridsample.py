"""Both graphs on the same input, over shapes, groups, strides, pads and offsets beyond borders."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degmix_edge.errors import GraphError
from degmix_edge.passes._base import append, apply, constant, to_graph, to_model
from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample
from degmix_edge.passes.requantize_samples import RequantizeSamples


def deform_graph(rng, *, n=1, group=2, groups=1, size=(5, 4), kernel=(1, 1), mask=False, **attrs):
    """x, offset (, mask) -> DeformConv "block/DeformConv" -> y; groups of channels, bias."""
    c, out = group * groups, 6
    stride, pads = attrs.get("strides", [1, 1]), attrs.get("pads", [0] * 4)
    dilation = attrs.get("dilations", [1, 1])
    spread = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height, width = (
        (s + pads[i] + pads[i + 2] - spread[i]) // stride[i] + 1 for i, s in enumerate(size)
    )
    taps = kernel[0] * kernel[1]
    names = {"x": [n, c, *size], "offset": [n, 2 * groups * taps, height, width]}
    if mask:
        names["mask"] = [n, groups * taps, height, width]
    inputs = {k: gs.Variable(k, np.float32, s) for k, s in names.items()}
    weight = constant("w", rng.normal(size=(out, c, *kernel)))
    y = gs.Variable("y", np.float32, [n, out, height, width])
    tensors = [inputs["x"], weight, inputs["offset"], constant("b", rng.normal(size=out))]
    tensors += [inputs["mask"]] if mask else []
    attrs |= {"offset_group": groups, "kernel_shape": list(kernel)}
    node = gs.Node("DeformConv", "block/DeformConv", attrs, tensors, [y])
    feeds = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in inputs.items()}
    feeds["offset"] *= max(size)
    return gs.Graph([node], list(inputs.values()), [y], opset=20), feeds


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], name: str = "y") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([name], feeds)[0]


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


def quantized(rng, amax: float) -> tuple[gs.Graph, dict[str, np.ndarray]]:
    """The same with `x` and the weights behind Q/DQ."""
    graph, feeds = deform_graph(rng, group=1, groups=4, size=(6, 7))
    node = graph.nodes[0]
    scale, zero = constant("s", amax / 127), constant("z", 0, np.int8)
    q = append(graph, "QuantizeLinear", [node.inputs[0], scale, zero], "x/q", np.int8)
    node.inputs[0] = append(graph, "DequantizeLinear", [q, scale, zero], "x/dq", np.float32)
    stored = np.rint(node.inputs[1].values * 30).clip(-127, 127)
    weights = [constant("w8", stored, np.int8), constant("ws", [1 / 30] * 6)]
    weights.append(constant("wz", [0] * 6, np.int8))
    node.inputs[1] = append(graph, "DequantizeLinear", weights, "w/dq", np.float32, axis=0)
    return to_graph(to_model(graph, {})), feeds


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
