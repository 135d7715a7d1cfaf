"""The forms that OpenVINO gets of the graphs that `build` makes, and what stays exact in them."""

import itertools

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from degmix_edge import backends
from degmix_edge.bundle.contents import recipe_and_ranges
from degmix_edge.bundle.golden import LOWERED, differences
from degmix_edge.graph.model import append, constant, to_graph, to_model
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session
from degmix_edge.passes._base import apply
from degmix_edge.passes.forms import lower_for_openvino
from degmix_edge.passes.guard_concat_scale import GuardConcatScale
from degmix_edge.passes.insert_bf16 import InsertBf16
from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample
from degmix_edge.passes.remove_bf16 import RemoveBf16
from degmix_edge.passes.resize_to_matmul import ResizeToMatmul, bilinear
from degmix_edge.quant.recipe import Placement, Recipe

pytestmark = pytest.mark.slow(file_seconds=8)
OPENVINO = backends.find("openvino")


def maps(model: bytes, image) -> dict[str, np.ndarray]:
    """What ONNX Runtime gives without any rewrite of its own."""
    session = cpu_session(model, optimization="none")
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(None, {IMAGE: image}), strict=True))


def distance(got, want) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_the_products_of_float_networks_are_exact(bundles, pictures):
    """Head resizes and the grid, on the graph that a build writes."""
    model, image = bundles["fp32"].onnx(), pictures[0][None]
    graph = to_graph(onnx.load_from_string(model))
    steps = [LowerDeformToGridsample(), ResizeToMatmul()]
    deformable, _, *again = [o.rewrites for o in apply(graph, [*steps, *steps])]
    assert deformable == sum(
        n.op_type == "DeformConv" for n in onnx.load_from_string(model).graph.node
    )
    assert again == [0, 0]
    assert not any("/scaled" in node.name or node.op == "Gather" for node in graph.nodes)
    heads = [node for node in graph.nodes if node.name.endswith("/rows")]
    assert len(heads) == 6
    assert any(node.op == "Resize" for node in graph.nodes)  # those before products stay
    want, got = maps(model, image), maps(to_model(graph, {}).SerializeToString(), image)
    for name, values in want.items():
        if values.dtype == np.uint8:
            assert np.mean(values == got[name]) >= 0.999
        else:
            assert distance(got[name], values) < 1e-6


@pytest.mark.parametrize(("size", "wanted"), [(3, 12), (5, 7), (1, 4), (6, 6)])
def test_a_resize_is_two_products(size, wanted):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 3, size, 4)).astype(np.float32)
    graph = gs.Graph(opset=20)
    graph.inputs = [gs.Variable("x", np.float32, image.shape)]
    sizes = constant("sizes", [2, 3, wanted, 9], np.int64)
    inputs = [graph.inputs[0], gs.Variable.empty(), gs.Variable.empty(), sizes]
    out = append(graph, "Resize", inputs, "y", np.float32, mode="linear")
    out.shape, graph.outputs = [2, 3, wanted, 9], [out]
    (want,) = cpu_session(to_model(graph.copy(), {}).SerializeToString()).run(None, {"x": image})
    assert [o.rewrites for o in apply(graph, [ResizeToMatmul()])] == [1]
    (got,) = cpu_session(to_model(graph, {}).SerializeToString()).run(None, {"x": image})
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(bilinear(size, wanted).sum(1), 1)


def test_what_is_no_head_or_no_plain_resize_stays():
    for attrs, reader in (({"mode": "nearest"}, None), ({"mode": "linear"}, "MatMul")):
        graph = gs.Graph(opset=20)
        graph.inputs = [gs.Variable("x", np.float32, (1, 2, 3, 4))]
        sizes = constant("sizes", [1, 2, 6, 8], np.int64)
        inputs = [graph.inputs[0], gs.Variable.empty(), gs.Variable.empty(), sizes]
        out = append(graph, "Resize", inputs, "y", np.float32, **attrs)
        out.shape = [1, 2, 6, 8]
        if reader:
            out = append(graph, reader, [out, constant("w", np.ones((8, 2)))], "z", np.float32)
        graph.outputs = [out]
        assert [o.rewrites for o in apply(graph, [ResizeToMatmul()])] == [0]


def test_int8_is_what_the_graph_says(bundles, pictures):
    """OpenVINO's INT8 kernels round as the graph does; a lost scale made tasks five times worse."""
    bundle = bundles["int8"]
    recipe, ranges = recipe_and_ranges(bundle)
    model, spec = bundle.onnx(), bundle.manifest.network
    floats = bundles["fp32"].onnx()
    engine = OPENVINO.build(model, recipe, ranges)[OPENVINO.engine_file]
    with OPENVINO(spec, engine, threads=1) as running:
        for picture in pictures[:3]:
            image = picture[None]
            exact, emulated, got = (
                maps(floats, image),
                maps(model, image),
                running.infer({IMAGE: image}),
            )
            for name, values in exact.items():
                if values.dtype != np.uint8:
                    ours = distance(emulated[name], values)
                    assert distance(got[name], values) < 1.3 * ours + 0.01, name


@pytest.mark.parametrize("reader", ["Conv", "MatMul"])
def test_a_pair_behind_a_concat_keeps_its_scale(reader):
    """Without the guard, OpenVINO leaves about 22 levels of the 240 that the scale has."""
    rng = np.random.default_rng(0)
    graph = gs.Graph(opset=20)
    graph.inputs = [gs.Variable(name, np.float32, (1, 16, 8, 8)) for name in "ab"]
    moved = [
        append(graph, "Mul", [t, constant(f"k{t.name}", 1.5)], f"m{t.name}", np.float32)
        for t in graph.inputs
    ]
    last = append(graph, "Concat", moved, "concat", np.float32, axis=1)
    scale, zero = constant("scale", 0.09), constant("zero", 0, np.int8)
    last = append(graph, "QuantizeLinear", [last, scale, zero], "q", np.int8)
    last = append(graph, "DequantizeLinear", [last, scale, zero], "dq", np.float32)
    count = 32 if reader == "Conv" else 8
    eye = 127 * np.eye(count, dtype=np.int8)
    stored = constant("w", eye[:, :, None, None] if reader == "Conv" else eye, np.int8)
    steps = [constant("ws", np.full(count, 1 / 127)), constant("wz", np.zeros(count), np.int8)]
    axis = 0 if reader == "Conv" else 1
    weight = append(graph, "DequantizeLinear", [stored, *steps], "wdq", np.float32, axis=axis)
    out = append(graph, reader, [last, weight], "out", np.float32)
    out.shape, graph.outputs = [1, 32, 8, 8], [out]
    feed = {name: rng.uniform(-7, 7, (1, 16, 8, 8)).astype(np.float32) for name in "ab"}
    model = to_model(graph.copy(), {}).SerializeToString()
    (want,) = cpu_session(model, optimization="none").run(None, feed)
    step = GuardConcatScale()
    assert [o.rewrites for o in apply(graph, [step, step])] == [1, 0]
    guarded = to_model(graph, {}).SerializeToString()
    (same,) = cpu_session(guarded, optimization="none").run(None, feed)
    np.testing.assert_allclose(same, want, atol=1e-6)
    ov = pytest.importorskip("openvino")
    compiled = ov.Core().compile_model(
        ov.Core().read_model(guarded), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    (got,) = compiled(feed).values()
    np.testing.assert_allclose(got, want, atol=0.0901)  # a tie may round to either side
    assert np.mean(np.abs(got - want) > 1e-4) < 0.01


def bf16_recipe(bundle, kept=()):
    """Every product of a float bundle in bfloat16, except those whose names begin so."""
    graph = to_graph(onnx.load_from_string(bundle.onnx()))
    names = [n.name for n in graph.nodes if n.op == "Conv" and isinstance(n.inputs[1], gs.Constant)]
    places = [
        Placement(
            node=name,
            op="Conv",
            precision="fp32" if name.startswith(tuple(kept)) and kept else "bf16",
            reason="test",
        )
        for name in names
    ]
    return Recipe(precision="bf16", placements=tuple(places))


def test_casts_say_what_is_bfloat16(bundles, pictures):
    recipe, image = bf16_recipe(bundles["fp32"]), pictures[0][None]
    exact = bundles["fp32"].onnx()
    graph = to_graph(onnx.load_from_string(exact))
    step = InsertBf16(recipe)
    count = len(recipe.placements)
    assert [o.rewrites for o in apply(graph, [step, step])] == [count, 0]
    rounded = to_model(graph, {}).SerializeToString()
    want, got = maps(exact, image), maps(rounded, image)
    assert 1e-4 < distance(got["depth"], want["depth"]) < 0.1
    graph = to_graph(onnx.load_from_string(rounded))
    assert apply(graph, [RemoveBf16(), RemoveBf16()])[1].rewrites == 0
    back = maps(to_model(graph, {}).SerializeToString(), image)
    for name, values in want.items():
        np.testing.assert_array_equal(back[name], values)


@pytest.mark.skipif("bf16" not in OPENVINO.precisions(), reason="this CPU has no bfloat16")
def test_marked_modules_run_in_fp32(bundles, pictures):
    bundle = bundles["fp32"]
    spec, image = bundle.manifest.network, pictures[0][None]
    exact, errors, kinds = maps(bundle.onnx(), image), [], []
    for kept in ((), ("backbone.",)):
        recipe = bf16_recipe(bundle, kept)
        engine = OPENVINO.build(bundle.onnx(), recipe, None)[OPENVINO.engine_file]
        with OPENVINO(spec, engine) as running:
            got = running.infer({IMAGE: image})
            nodes = running._compiled.get_runtime_model().get_ordered_ops()
        found = differences(spec, exact, got, LOWERED["bf16"])
        assert found.passed, found.text
        errors.append(max(distance(got[n], v) for n, v in exact.items() if v.dtype != np.uint8))
        convs = [(n.get_friendly_name(), n.get_rt_info()) for n in nodes]
        convs = [
            (n, i["runtimePrecision"].astype(str))
            for n, i in convs
            if i["layerType"].astype(str) == "Convolution"
        ]
        kinds.append({p for name, p in convs if name.startswith("backbone.")})
    assert kinds[0] >= {"bf16"}
    assert kinds[1] == {"f32"}
    assert 1e-4 < errors[1] < errors[0]


def test_nodes_that_stay_fp32(bundles):
    model = bundles["fp32"].onnx()
    assert lower_for_openvino(model, Recipe(precision="fp32"))[1] == frozenset()
    recipe = bf16_recipe(bundles["fp32"], ("backbone.",))
    lowered, kept = lower_for_openvino(model, recipe)
    names = {node.name for node in onnx.load_from_string(lowered).graph.node}
    assert recipe.nodes("fp32") <= kept <= names
    assert not kept & recipe.nodes("bf16")
    assert any(name.endswith("Relu") for name in itertools.chain(kept))
