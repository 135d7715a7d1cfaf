"""Each pass: both graphs on the same input, how many rewrites, none the second time."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from conftest import HEIGHT, WIDTH
from deform_graphs import deform_graph
from deform_graphs import run as run_deform

from degmix_edge import tasks
from degmix_edge.errors import GraphError
from degmix_edge.graph.model import constant, read_model, to_graph, to_model
from degmix_edge.network import NetworkSpec, Source
from degmix_edge.passes._base import apply
from degmix_edge.passes.decode_tasks import DecodeTasks
from degmix_edge.passes.fold_batchnorm import FoldBatchnorm
from degmix_edge.passes.fold_padding import FoldPadding
from degmix_edge.passes.forms import deploy_model, quantize_model
from degmix_edge.passes.fuse_integer_matmul import FuseIntegerMatmul
from degmix_edge.passes.insert_fp16 import InsertFp16
from degmix_edge.passes.insert_image_input import InsertImageInput
from degmix_edge.passes.insert_qdq import InsertQdq
from degmix_edge.passes.lower_qdq_for_cpu import LowerQdqForCpu
from degmix_edge.passes.prune_tasks import PruneTasks
from degmix_edge.passes.share_constants import ShareConstants
from degmix_edge.preprocess import normalise
from degmix_edge.quant.qparams import per_channel_scale, scale_of
from degmix_edge.quant.ranges import Range, Ranges
from degmix_edge.quant.recipe import Placement, Recipe
from degmix_edge.quant.rules import choose
from degmix_edge.quant.sites import observed_tensors

RNG = np.random.default_rng(0)


def run(model: onnx.ModelProto, image: np.ndarray, name: str = "image") -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: image}), strict=True))


def ranges(values: dict[str, float]) -> Ranges:
    tensors = {k: Range(low=-v, high=v, amax=v) for k, v in values.items()}
    return Ranges(graph_sha256="0", observer="min_max", images=(), tensors=tensors)


def conv_graph(*, norm: bool, bias: bool = True, relu: bool = False) -> gs.Graph:
    """x -> Conv "conv" (-> BatchNormalization) (-> Relu) -> y, 4 to 6 channels."""
    x = gs.Variable("x", np.float32, [1, 4, 8, 8])
    weight = constant("w", RNG.normal(size=(6, 4, 3, 3)))
    inputs = [x, weight] + ([constant("b", RNG.normal(size=6))] if bias else [])
    out = gs.Variable("conv", np.float32, [1, 6, 8, 8])
    nodes = [gs.Node("Conv", "conv", {"pads": [1] * 4}, inputs, [out])]
    if norm:
        values = [RNG.uniform(0.5, 2, 6), *RNG.normal(size=(2, 6)), RNG.uniform(0.5, 2, 6)]
        stats = [constant(f"n{i}", v) for i, v in enumerate(values)]
        folded = gs.Variable("norm", np.float32, [1, 6, 8, 8])
        nodes.append(
            gs.Node("BatchNormalization", "norm", {"epsilon": 1e-3}, [out, *stats], [folded])
        )
        out = folded
    if relu:
        active = gs.Variable("relu", np.float32, [1, 6, 8, 8])
        nodes.append(gs.Node("Relu", "relu", {}, [out], [active]))
        out = active
    return gs.Graph(nodes, [x], [out], opset=20)


def copy(graph: gs.Graph) -> gs.Graph:
    return to_graph(to_model(graph.copy(), {}))


X = RNG.normal(size=(1, 4, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
def test_fold_batchnorm(bias):
    graph = conv_graph(norm=True, bias=bias)
    before = run(to_model(graph.copy(), {}), X, "x")["norm"]
    assert [o.rewrites for o in apply(graph, [FoldBatchnorm(), FoldBatchnorm()])] == [1, 0]
    assert [node.op for node in graph.nodes] == ["Conv"]
    np.testing.assert_allclose(run(to_model(graph, {}), X, "x")["norm"], before, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_fold_batchnorm_into_a_deformable_convolution(bias, mask):
    rng = np.random.default_rng(1)
    graph, feeds = deform_graph(rng, n=2, kernel=(3, 3), pads=[1] * 4, mask=mask)
    node = graph.nodes[0]
    if not bias:
        node.inputs[3] = gs.Variable.empty()
        node.inputs = node.inputs if mask else node.inputs[:3]
    values = [rng.uniform(0.5, 2, 6), *rng.normal(size=(2, 6)), rng.uniform(0.5, 2, 6)]
    stats = [constant(f"n{i}", v) for i, v in enumerate(values)]
    folded = gs.Variable("norm", np.float32, node.outputs[0].shape)
    inputs = [node.outputs[0], *stats]
    graph.nodes.append(gs.Node("BatchNormalization", "norm", {"epsilon": 1e-3}, inputs, [folded]))
    graph.outputs = [folded]
    before = run_deform(to_model(graph.copy(), {}), feeds, "norm")
    assert [o.rewrites for o in apply(graph, [FoldBatchnorm(), FoldBatchnorm()])] == [1, 0]
    assert [node.op for node in graph.nodes] == ["DeformConv"]
    after = run_deform(to_model(graph, {}), feeds, "norm")
    np.testing.assert_allclose(after, before, atol=1e-4)


def padded_graph(
    pads: list[int], value: float = 0.0, *, opset: int = 20, **attrs: object
) -> gs.Graph:
    """x -> Pad "pad" -> Conv "conv" of 3x3, which pads one pixel by itself -> y."""
    graph = conv_graph(norm=False)
    graph.opset = opset
    x = graph.inputs[0]
    sides = [before + after for before, after in zip(pads[:4], pads[4:], strict=True)]
    padded = gs.Variable("padded", np.float32, [a + b for a, b in zip(x.shape, sides, strict=True)])
    if opset < 11:
        node = gs.Node("Pad", "pad", {"pads": pads, "value": value, **attrs}, [x], [padded])
    else:
        inputs = [x, gs.Constant("pads", np.array(pads)), constant("value", np.array(value))]
        node = gs.Node("Pad", "pad", dict(attrs), inputs, [padded])
    conv = graph.nodes[0]
    conv.inputs[0] = padded
    conv.attrs["strides"] = [2, 2]
    conv.outputs[0].shape = None
    graph.nodes.append(node)
    return graph.toposort()


@pytest.mark.parametrize("opset", [10, 20])
@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (0, 1, 1, 0), (1, 1, 1, 1)])
def test_fold_padding(pads, opset):
    top, left, bottom, right = pads
    graph = padded_graph([0, 0, top, left, 0, 0, bottom, right], opset=opset)
    before = run(to_model(graph.copy(), {}), X, "x")["conv"]
    assert [o.rewrites for o in apply(graph, [FoldPadding(), FoldPadding()])] == [1, 0]
    assert [node.op for node in graph.nodes] == ["Conv"]
    after = run(to_model(graph, {}), X, "x")["conv"]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize(
    ("pads", "value", "attrs"),
    [
        ([0, 0, 0, 0, 0, 0, 1, 1], 0.5, {}),  # not zero
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, {"mode": "reflect"}),
        ([0, 0, 2, 0, 0, 0, 0, 0], 0.0, {}),  # with the convolution's own, as far as its kernel
        ([0, 0, -1, 0, 0, 0, 1, 0], 0.0, {}),  # a cut
    ],
)
def test_fold_padding_leaves_what_a_convolution_cannot_do(pads, value, attrs):
    graph = padded_graph(pads, value, **attrs)
    assert apply(graph, [FoldPadding()])[0].rewrites == 0


def test_fold_padding_leaves_a_map_that_others_read():
    graph = padded_graph([0, 0, 0, 0, 0, 0, 1, 1])
    graph.outputs.append(graph.tensors()["padded"])
    assert apply(graph, [FoldPadding()])[0].rewrites == 0


def test_fold_batchnorm_leaves_a_convolution_that_others_read():
    graph = conv_graph(norm=True)
    conv = graph.tensors()["conv"]
    graph.outputs.append(conv)
    assert apply(graph, [FoldBatchnorm()])[0].rewrites == 0


def test_share_constants():
    graph = conv_graph(norm=False)
    first = graph.nodes[0]
    twin = gs.Constant("w2", first.inputs[1].values.copy())
    other = gs.Variable("other", np.float32, [1, 6, 8, 8])
    graph.nodes.append(gs.Node("Conv", "twin", {"pads": [1] * 4}, [first.inputs[0], twin], [other]))
    graph.outputs.append(other)
    before = run(to_model(graph.copy(), {}), X, "x")
    assert [o.rewrites for o in apply(graph, [ShareConstants(), ShareConstants()])] == [1, 0]
    after = run(to_model(graph, {}), X, "x")
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


def test_prune_keeps_the_values_of_what_it_keeps(exported):
    model, _ = exported
    image = RNG.normal(size=(1, 3, HEIGHT, WIDTH)).astype(np.float32)
    before = run(model, image)
    graph = to_graph(model)
    first, second = apply(graph, [PruneTasks(["depth", "semseg"]), PruneTasks(["depth", "semseg"])])
    assert first.rewrites > 20
    assert second.rewrites == 0
    after = run(to_model(graph, {}), image)
    assert list(after) == ["semseg", "depth"]
    for name, value in after.items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)


def test_prune_names_what_is_missing(exported):
    with pytest.raises(GraphError, match="no output for flow"):
        apply(to_graph(exported[0]), [PruneTasks(["flow"])])


def test_image_input_is_normalise(exported, pictures):
    model, spec = exported
    before = run(model, normalise(pictures[0][None]))
    graph = to_graph(model)
    done = apply(graph, [InsertImageInput(spec), InsertImageInput(spec)])
    assert [o.rewrites for o in done] == [1, 0]
    after = run(to_model(graph, {}), pictures[0][None])
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-4)


def test_image_input_refuses_another_size(exported):
    model, spec = exported
    with pytest.raises(GraphError, match=r"expected float32 \[1, 3, 65, 96\]"):
        apply(to_graph(model), [InsertImageInput(spec.model_copy(update={"height": 65}))])


def task_graph(name: str, channels: int, scale: int) -> tuple[gs.Graph, NetworkSpec]:
    """Logits are the input: only the decode is tested."""
    classes = tuple(map(str, range(channels))) if name == "semseg" else ()
    task = tasks.find(name).spec(classes)
    spec = NetworkSpec(
        model="m", height=12, width=20, tasks=(task,), source=Source(name="s", sha256="0")
    )
    logits = gs.Variable("x", np.float32, [1, channels, 12 // scale, 20 // scale])
    out = gs.Variable(name, np.float32, list(logits.shape))
    return gs.Graph(
        [gs.Node("Identity", "i", {}, [logits], [out])], [logits], [out], opset=20
    ), spec


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(
    ("name", "channels"),
    [("semseg", 5), ("saliency", 2), ("edge", 1), ("depth", 1), ("normals", 3)],
)
def test_decode_is_the_numpy_reference(name, channels, scale):
    graph, spec = task_graph(name, channels, scale)
    logits = 3 * RNG.normal(size=graph.inputs[0].shape).astype(np.float32)
    done = apply(graph, [DecodeTasks(spec, raw_logits=True), DecodeTasks(spec, raw_logits=True)])
    assert [o.rewrites for o in done] == [1, 0]
    got = run(to_model(graph, {}), logits, "x")
    large = torch.nn.functional.interpolate(
        torch.from_numpy(logits), (12, 20), mode="bilinear", align_corners=False
    ).numpy()
    np.testing.assert_allclose(got[f"{name}_logits"], large, atol=1e-5)
    want = tasks.decode(got[f"{name}_logits"], spec.tasks[0])
    assert got[name].dtype == spec.tasks[0].map_spec(12, 20).dtype
    np.testing.assert_allclose(got[name], want, atol=1e-6)


def test_decode_refuses_maps_that_are_no_logits():
    graph, spec = task_graph("depth", 1, 1)
    graph.outputs[0].shape = [1, 12, 20]
    with pytest.raises(GraphError, match="depth.*expected static logits"):
        apply(graph, [DecodeTasks(spec)])


def recipe(precision: str, *nodes: str) -> Recipe:
    places = (Placement(node=n, op="Conv", precision=precision, reason="test") for n in nodes)
    return Recipe(precision=precision, placements=tuple(places))


def test_qdq_is_fake_quantization():
    graph = conv_graph(norm=False)
    weight, bias = (tensor.values.astype(np.float64) for tensor in graph.nodes[0].inputs[1:])
    amax = 2.0
    step = InsertQdq(recipe("int8", "conv"), ranges({"x": amax}))
    assert [o.rewrites for o in apply(graph, [step, step])] == [1, 0]
    s = scale_of(amax)
    x = np.clip(np.round(X / s), -128, 127) * s  # ONNX clips to all of int8
    ws = per_channel_scale(weight, 0).reshape(-1, 1, 1, 1)
    w = np.clip(np.round(weight / ws), -127, 127) * ws
    want = torch.nn.functional.conv2d(
        *map(torch.tensor, (x.astype(np.float64), w, bias)), padding=1
    )
    got = run(to_model(graph, {}), X, "x")["conv"]
    # ONNX Runtime may quantize the bias too, to s * ws, and then rounds by half of that.
    np.testing.assert_allclose(got, want.numpy(), atol=float((s * ws).max()))


def test_qdq_stores_weights_as_int8_and_shares_an_activations_pair():
    graph = conv_graph(norm=False, relu=True)
    conv = graph.nodes[0]
    other = gs.Variable("other", np.float32, [1, 6, 8, 8])
    weight = constant("w2", RNG.normal(size=(6, 4, 3, 3)))
    graph.nodes.append(
        gs.Node("Conv", "twin", {"pads": [1] * 4}, [conv.inputs[0], weight], [other])
    )
    graph.outputs.append(other)
    apply(graph, [InsertQdq(recipe("int8", "conv", "twin"), ranges({"x": 2.0}))])
    assert sum(node.op == "QuantizeLinear" for node in graph.nodes) == 1
    stored = [
        t
        for t in graph.tensors().values()
        if isinstance(t, gs.Constant) and list(t.shape) == [6, 4, 3, 3]
    ]
    assert len(stored) == 2
    assert all(t.dtype == np.int8 for t in stored)
    relu = next(node for node in graph.nodes if node.op == "Relu")
    assert relu.inputs[0].inputs[0].op == "Conv"  # no pair between the two


def test_qdq_without_a_range_says_which():
    with pytest.raises(GraphError, match="no range for tensor 'x'"):
        apply(conv_graph(norm=False), [InsertQdq(recipe("int8", "conv"), ranges({}))])


def test_offsets_are_never_quantized(bundles):
    graph = to_graph(onnx.load(bundles["int8"].file("model.onnx")))
    deformable = [node for node in graph.nodes if node.op == "DeformConv"]
    assert len(deformable) == 6
    for node in deformable:
        frontier, seen = [node.inputs[2]], 0
        while frontier and seen < 4:  # the branch: convolution, addition, convolution
            for maker in frontier.pop().inputs:
                assert maker.op not in ("QuantizeLinear", "DequantizeLinear")
                seen += 1
                frontier += [t for t in maker.inputs[:1] if maker.op in ("Conv", "Add")]


def test_fp16_weights_are_half_and_the_rest_is_not():
    graph = conv_graph(norm=False)
    before = run(to_model(graph.copy(), {}), X, "x")["conv"]
    step = InsertFp16(recipe("fp16", "conv"))
    assert [o.rewrites for o in apply(graph, [step, step])] == [1, 0]
    assert next(n for n in graph.nodes if n.op == "Conv").inputs[1].dtype == np.float16
    after = run(to_model(graph, {}), X, "x")["conv"]
    assert after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < 0.02


def test_fp16_refuses_a_weight_that_overflows():
    graph = conv_graph(norm=False)
    graph.nodes[0].inputs[1].values[0, 0, 0, 0] = 1e6
    with pytest.raises(GraphError, match=r"conv: a weight of 1e\+06 does not fit FP16"):
        apply(graph, [InsertFp16(recipe("fp16", "conv"))])


def test_lowering_gives_integer_kernels_and_nearly_the_same_numbers(tmp_path):
    graph = conv_graph(norm=False, relu=True)
    second = gs.Variable("second", np.float32, [1, 5, 8, 8])
    relu = graph.outputs[0]
    weight = constant("w2", RNG.normal(size=(5, 6, 1, 1)))
    graph.nodes.append(gs.Node("Conv", "second", {}, [relu, weight], [second]))
    graph.outputs = [second]
    found = ranges({"x": 4.0, "relu": 40.0, "second": 90.0, "conv": 40.0})
    apply(graph, [InsertQdq(recipe("int8", "conv", "second"), found)])
    before = run(to_model(graph.copy(), {}), X, "x")["second"]
    graph = copy(graph)
    done = apply(graph, [LowerQdqForCpu(found), LowerQdqForCpu(found)])
    assert done[0].rewrites >= 2
    assert done[1].rewrites == 0
    lowered = to_model(graph, {})
    after = run(lowered, X, "x")["second"]
    assert np.abs(after - before).max() <= 1.01 * scale_of(90.0) + 1e-4
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        lowered.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ops = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert "QLinearConv" in ops
    assert "Relu" not in ops  # folded into the quantization


def test_the_whole_pipeline_finds_nothing_the_second_time(exported, calibrate):
    model, spec = exported
    deployed, spec, _ = deploy_model(model, spec)
    again, _, detail = deploy_model(deployed, spec)
    assert all(part.endswith(" 0") for part in detail.split("(")[1].rstrip(")").split(", "))
    int8 = choose(to_graph(deployed), spec, "int8")
    found = calibrate(deployed, observed_tensors(to_graph(deployed), int8))
    graph = to_graph(quantize_model(deployed, int8, found, spec))
    assert apply(graph, [InsertQdq(int8, found)])[0].rewrites == 0


@pytest.mark.parametrize("cut", [0, 100, 20_000])
def test_a_damaged_onnx_file_says_so(onnx_path, tmp_path, cut):
    path = tmp_path / "cut.onnx"
    path.write_bytes(onnx_path.read_bytes()[:cut])
    with pytest.raises(GraphError, match="cut.onnx"):
        read_model(path)


def test_a_picture_is_no_onnx(tmp_path):
    path = tmp_path / "photo.onnx"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8)
    with pytest.raises(GraphError, match="photo.onnx: not a readable ONNX"):
        read_model(path)


def test_a_residual_branch_is_quantized_where_the_sum_is():
    """conv -> Add(x) -> Relu -> conv: the addition's other branch comes from x's own pair."""
    x = gs.Variable("x", np.float32, [1, 4, 8, 8])
    weights = [constant(f"w{i}", RNG.normal(size=(4, 4, 1, 1))) for i in range(3)]
    names = ("a", "sum", "relu", "y")
    a, total, relu, y = (gs.Variable(n, np.float32, [1, 4, 8, 8]) for n in names)
    nodes = [
        gs.Node("Conv", "a", {}, [x, weights[0]], [a]),
        gs.Node("Add", "add", {}, [a, x], [total]),
        gs.Node("Relu", "relu", {}, [total], [relu]),
        gs.Node("Conv", "y", {}, [relu, weights[1]], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=20)
    apply(graph, [InsertQdq(recipe("int8", "a", "y"), ranges({"x": 3.0, "relu": 5.0}))])
    add = next(n for n in graph.nodes if n.op == "Add")
    assert [bool(t.inputs) and t.inputs[0].op for t in add.inputs] == ["Conv", "DequantizeLinear"]
    assert sum(n.op == "QuantizeLinear" for n in graph.nodes) == 2  # x's pair serves both


def test_a_residual_branch_stays_float_where_nothing_quantizes_the_sum():
    graph = conv_graph(norm=False)
    conv = graph.nodes[0]
    skip = gs.Variable("skip", np.float32, [1, 6, 8, 8])
    out = gs.Variable("out", np.float32, [1, 6, 8, 8])
    graph.inputs.append(skip)
    graph.nodes.append(gs.Node("Add", "add", {}, [conv.outputs[0], skip], [out]))
    graph.outputs = [out]
    apply(graph, [InsertQdq(recipe("int8", "conv"), ranges({"x": 2.0}))])
    add = next(n for n in graph.nodes if n.op == "Add")
    assert not any(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in add.inputs)


def test_a_concat_and_its_inputs_have_one_scale():
    x = gs.Variable("x", np.float32, [1, 4, 8, 8])
    one, two, joined, y, z = (
        gs.Variable(n, np.float32) for n in ("one", "two", "joined", "y", "z")
    )
    one.shape = two.shape = [1, 4, 8, 8]
    nodes = [
        gs.Node("Relu", "one", {}, [x], [one]),
        gs.Node("Neg", "two", {}, [x], [two]),
        gs.Node("Concat", "joined", {"axis": 1}, [one, two], [joined]),
        gs.Node("Conv", "y", {}, [joined, constant("w", RNG.normal(size=(3, 8, 1, 1)))], [y]),
        gs.Node("Conv", "z", {}, [one, constant("v", RNG.normal(size=(3, 4, 1, 1)))], [z]),
    ]
    graph = gs.Graph(nodes, [x], [y, z], opset=20)
    found = ranges({"joined": 4.0, "one": 1.0})
    apply(graph, [InsertQdq(recipe("int8", "y", "z"), found)])
    scales = {
        n.inputs[0].name: float(n.inputs[1].values) for n in graph.nodes if n.op == "QuantizeLinear"
    }
    assert scales == {"joined": scale_of(4.0), "one": scale_of(4.0)}


def test_fp16_spreads_between_products_and_stops_at_norms():
    graph = conv_graph(norm=False, relu=True)
    relu = graph.outputs[0]
    norm, second = (gs.Variable(n, np.float32, [1, 6, 8, 8]) for n in ("norm", "second"))
    scale = constant("g", np.ones(8))
    graph.nodes.append(gs.Node("LayerNormalization", "ln", {"axis": -1}, [relu, scale], [norm]))
    graph.nodes.append(
        gs.Node("Conv", "c2", {}, [norm, constant("w2", RNG.normal(size=(6, 6, 1, 1)))], [second])
    )
    graph.outputs = [second]
    before = run(to_model(graph.copy(), {}), X, "x")["second"]
    step = InsertFp16(recipe("fp16", "conv", "c2"))
    assert [o.rewrites for o in apply(graph, [step, step])] == [3, 0]
    types = {n.name: n.outputs[0].dtype for n in graph.nodes if n.op != "Cast"}
    assert types["relu"] == np.float16
    assert types["ln"] == np.float32
    assert run(to_model(graph, {}), X, "x")["second"].dtype == np.float32
    np.testing.assert_allclose(run(to_model(graph, {}), X, "x")["second"], before, atol=0.05)


def test_a_linear_layer_with_a_bias_runs_in_integers():
    x, m, y = (
        gs.Variable(n, np.float32, s)
        for n, s in (("x", [1, 6, 8]), ("m", [1, 6, 5]), ("y", [1, 6, 5]))
    )
    nodes = [
        gs.Node("MatMul", "mm", {}, [x, constant("w", RNG.normal(size=(8, 5)))], [m]),
        gs.Node("Add", "bias", {}, [m, constant("b", RNG.normal(size=5))], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=20)
    found = ranges({"x": 3.0})
    apply(graph, [InsertQdq(recipe("int8", "mm"), found)])
    tokens = RNG.normal(size=(1, 6, 8)).astype(np.float32)
    want = run(to_model(graph.copy(), {}), tokens, "x")["y"]
    graph = copy(graph)
    steps = [LowerQdqForCpu(found), FuseIntegerMatmul(), FuseIntegerMatmul()]
    assert [o.rewrites for o in apply(graph, steps)][1:] == [1, 0]
    ops = [n.op for n in graph.nodes]
    assert ops == ["QuantizeLinear", "MatMulIntegerToFloat"]
    np.testing.assert_allclose(run(to_model(graph, {}), tokens, "x")["y"], want, atol=1e-4)
