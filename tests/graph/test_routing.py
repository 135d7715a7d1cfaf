"""Routers and gates stay float, so INT8 flips no choice by itself, on every network with some."""

import numpy as np
import pytest
from conftest import lively_network
from degmix_calibration.collect import collect
from degmix_training.export import network_spec

from degmix_edge import backends
from degmix_edge.backends import _cpu_ops
from degmix_edge.errors import ShapeError
from degmix_edge.graph.model import to_graph
from degmix_edge.graph.routing import selection_flips
from degmix_edge.network import IMAGE
from degmix_edge.passes import lower_moe
from degmix_edge.passes.forms import deploy_model, lower_for_onnxruntime, quantize_model
from degmix_edge.quant import rules as recipes
from degmix_edge.quant.sites import observed_tensors

pytestmark = pytest.mark.slow

ROUTED = {
    "m3vit": ({}, "router/"),
    "mlore": ({}, ".routers."),
    "taskexpert": ({}, ".gates."),
    "baseline": ({"partially_dynamic": (("structured", True),)}, ".attention."),
}


@pytest.fixture(scope="module", params=ROUTED)
def routed(request, pictures):
    """A network that routes: float graph, spec, ranges, what its routers' names hold."""
    settings, part = ROUTED[request.param]
    loaded, exported = lively_network(request.param, **settings)
    graph, spec, _ = deploy_model(exported, network_spec(loaded), precision="int8")
    recipe = recipes.choose(to_graph(graph), spec, "int8")
    named = [(str(i), {IMAGE: picture[None]}) for i, picture in enumerate(pictures[:4])]
    ranges = collect(graph, observed_tensors(to_graph(graph), recipe), named, "min_max")
    return graph, spec, ranges, part


def test_routers_and_gates_are_float(routed):
    graph, spec, ranges, part = routed
    recipe = recipes.choose(to_graph(graph), spec, "int8")
    mine = [p for p in recipe.placements if part in f"{p.node}/"]
    assert mine
    assert {p.precision for p in mine} == {"fp32"}
    assert all("routes" in p.reason for p in mine)
    others = [p for p in recipe.placements if "routes" in p.reason and part not in f"{p.node}/"]
    # What only a gate reads is part of it: biases that are mixed by the same shares.
    assert all("MatMul" in p.node for p in others), others


def test_routers_and_gates_are_fp32_beside_fp16(routed):
    graph, spec, ranges, part = routed
    recipe = recipes.choose(to_graph(graph), spec, "fp16")
    half = to_graph(quantize_model(graph, recipe, None, spec))
    mine = [
        n for n in half.nodes if part in n.name and n.op in ("MatMul", "Gemm", "Conv", "Softmax")
    ]
    assert mine
    assert {n.outputs[0].dtype for n in mine} == {np.dtype(np.float32)}
    assert any(n.op == "Conv" and n.outputs[0].dtype == np.float16 for n in half.nodes)


def test_int8_flips_no_choice_by_itself(routed, pictures):
    graph, spec, ranges, part = routed
    recipe = recipes.choose(to_graph(graph), spec, "int8")
    int8 = quantize_model(graph, recipe, ranges, spec)
    feeds = [{IMAGE: picture[None]} for picture in pictures]
    flips = selection_flips(graph, int8, feeds)
    chooses = any(node.op_type == "TopK" for node in graph.graph.node)
    assert (flips.mixtures > 0) == chooses
    assert flips.router == 0
    if spec.model != "m3vit":
        return
    assert 0 < flips.total < 0.2
    # The measurement can fail: with probabilities that are quantized it does.
    assert selection_flips(graph, quantized_scores(int8), feeds).router > 0


def quantized_scores(model):
    """Routers' probabilities in steps of 1/32, as from an INT8 grid."""
    from degmix_edge.graph.model import append, constant, to_model

    graph = to_graph(model)
    for node in [n for n in graph.nodes if n.op == "TopK"]:
        scale = constant(f"{node.name}/scale", np.float32(1 / 32))
        zero = constant(f"{node.name}/zero", 0, np.int8)
        scores = node.inputs[0]
        q = append(graph, "QuantizeLinear", [scores, scale, zero], f"{node.name}/q", np.int8)
        node.inputs[0] = append(
            graph, "DequantizeLinear", [q, scale, zero], f"{node.name}/dq", np.float32
        )
    return to_model(graph, {})


@pytest.mark.parametrize("routed", ["m3vit"], indirect=True)
def test_int8_experts_are_gathered_to_the_same_maps(routed, pictures, monkeypatch):
    graph, spec, ranges, _ = routed
    recipe = recipes.choose(to_graph(graph), spec, "int8")
    model = quantize_model(graph, recipe, ranges, spec).SerializeToString()
    backend = backends.find("onnxruntime")

    def maps(worth):
        monkeypatch.setattr(lower_moe, "WORTH", worth)
        monkeypatch.setattr(lower_moe.LowerMoe.__init__, "__defaults__", (worth,))
        lowered = lower_for_onnxruntime(model, ranges, operators=_cpu_ops.library() is not None)
        assert (b"NonZero" in lowered) == (worth == 0)
        engine = backend.build(model, recipe, ranges)[backend.engine_file]
        with backend(spec, engine) as running:
            return running.infer({IMAGE: pictures[0][None]})

    masked, gathered = maps(10**15), maps(0)
    # Sums have another order: a value at the edge of an INT8 step may take the other one.
    for task in ("depth", "normals"):
        scale = np.abs(masked[task]).max()
        assert np.abs(gathered[task] - masked[task]).mean() <= 2e-3 * scale
    assert (gathered["semseg"] == masked["semseg"]).mean() > 0.99


@pytest.mark.parametrize("routed", ["mlore"], indirect=True)
def test_more_images_than_an_engine_takes_are_refused(routed, pictures):
    graph, spec, _, _ = routed
    backend = backends.find("onnxruntime")
    with backend(spec, graph.SerializeToString()) as running:
        with pytest.raises(ShapeError, match=r"\(2, 64, 96, 3\).*\(1, 64, 96, 3\)"):
            running.infer({IMAGE: np.stack(pictures[:2])})
