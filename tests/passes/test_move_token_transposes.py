"""Transposes of maps to tokens and back, on the graph that a build writes and at their edges."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from degmix_edge.graph.model import append, constant, to_graph, to_model
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session
from degmix_edge.passes._base import apply
from degmix_edge.passes.move_token_transposes import SWAP, TO_FIRST, TO_LAST, MoveTokenTransposes


def run(graph: gs.Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return cpu_session(to_model(graph, {}).SerializeToString()).run(None, feed)


def test_a_network_stays_the_same(bundles, pictures):
    graph = to_graph(onnx.load_from_string(bundles["fp32"].onnx()))
    feed = {IMAGE: pictures[0][None]}
    want, step = run(graph.copy(), feed), MoveTokenTransposes()
    before = sum(n.op == "Transpose" and n.attrs["perm"] == SWAP for n in graph.nodes)
    moved, again = (o.rewrites for o in apply(graph, [step, step]))
    assert 0 < moved <= before
    assert again == 0
    for got, values in zip(run(graph, feed), want, strict=True):
        np.testing.assert_array_equal(got, values)


def tokens(image: gs.Variable, flat: list[int]) -> gs.Graph:
    """Map -> Reshape to `flat` -> Transpose -> Relu -> Transpose -> Reshape to the map's shape."""
    graph = gs.Graph(inputs=[image], opset=20)
    joined = append(graph, "Reshape", [image, constant("f", flat, np.int64)], "flat", np.float32)
    joined.shape = flat
    last = append(graph, "Transpose", [joined], "swap", np.float32, perm=SWAP)
    last.shape = [flat[0], flat[2], flat[1]]
    used = append(graph, "Relu", [last], "used", np.float32)
    used.shape = last.shape
    back = append(graph, "Transpose", [used], "back", np.float32, perm=SWAP)
    back.shape = flat
    sizes = constant("sizes", list(image.shape), np.int64)
    out = append(graph, "Reshape", [back, sizes], "out", np.float32)
    out.shape = list(image.shape)
    graph.outputs = [out]
    return graph


def test_both_ways():
    graph = tokens(gs.Variable("x", np.float32, [2, 3, 4, 5]), [2, 3, 20])
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)}
    (want,) = run(graph.copy(), feed)
    assert apply(graph, [MoveTokenTransposes()])[0].rewrites == 2
    perms = [node.attrs["perm"] for node in graph.nodes if node.op == "Transpose"]
    assert sorted(perms) == sorted([TO_LAST, TO_FIRST])
    np.testing.assert_array_equal(run(graph, feed)[0], want)


@pytest.mark.parametrize("flat", [[2, 12, 5], [1, 6, 20], [2, 1, 60]])
def test_other_reshapes_stay(flat):
    graph = tokens(gs.Variable("x", np.float32, [2, 3, 4, 5]), flat)
    assert apply(graph, [MoveTokenTransposes()])[0].rewrites == 0


def test_a_flat_map_that_others_read_stays():
    graph = tokens(gs.Variable("x", np.float32, [2, 3, 4, 5]), [2, 3, 20])
    (flat,) = (node.outputs[0] for node in graph.nodes if node.name == "back")
    graph.outputs.append(flat)
    assert apply(graph, [MoveTokenTransposes()])[0].rewrites == 1
