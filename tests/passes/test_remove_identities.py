"""Each kind of node that gives back its input, and its neighbour that does not."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from test_passes import run

from degmix_edge.graph.model import constant, to_graph, to_model
from degmix_edge.passes._base import apply
from degmix_edge.passes.remove_identities import RemoveIdentities

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
INTS = np.int64


def ints(name, values):
    return constant(name, values, INTS)


def resize(scales, mode="half_pixel"):
    attrs = {"coordinate_transformation_mode": mode, "mode": "linear"}
    roi = [0.1] * 4 + [0.9] * 4 if mode.startswith("tf_crop") else []
    sides = np.asarray([1, 1, *scales], np.float32)
    return "Resize", attrs, [constant("roi", roi), constant("scales", sides)]


def pad(values):
    return "Pad", {}, [ints("pads", values)]


TRAINING, STILL = (constant(f"training {value}", value, bool) for value in (True, False))
CASES = {
    "resize by 1": (resize([1, 1]), True),
    "resize to as many pixels": (resize([1.2, 1.1]), False),
    "crop": (resize([1, 1], "tf_crop_and_resize"), False),
    "dropout in training": (("Dropout", {}, [constant("r", 0.0), TRAINING]), False),
    "still dropout": (("Dropout", {}, [constant("r", 0.5), STILL]), True),
    "identity": (("Identity", {}, []), True),
    "dropout": (("Dropout", {}, []), True),
    "empty pad": (pad([0] * 8), True),
    "pad": (pad([0, 0, 0, 0, 0, 0, 0, 1]), False),
    "same shape": (("Reshape", {}, [ints("s", [2, 3, -1, 5])]), True),
    "another shape": (("Reshape", {}, [ints("s", [2, 3, 20])]), False),
    "same order": (("Transpose", {"perm": [0, 1, 2, 3]}, []), True),
    "another order": (("Transpose", {"perm": [0, 1, 3, 2]}, []), False),
    "same type": (("Cast", {"to": 1}, []), True),
    "another type": (("Cast", {"to": 10}, []), False),
    "whole slice": (("Slice", {}, [ints("a", [0]), ints("b", [9]), ints("c", [2])]), True),
    "slice": (("Slice", {}, [ints("a", [1]), ints("b", [9]), ints("c", [2])]), False),
    "backwards": (
        ("Slice", {}, [ints("a", [-1]), ints("b", [-9]), ints("c", [2]), ints("d", [-1])]),
        False,
    ),
    "concat of one": (("Concat", {"axis": 1}, []), True),
    "expand to itself": (("Expand", {}, [ints("s", [1, 1, 1, 1])]), True),
    "expand": (("Expand", {}, [ints("s", [2, 1, 1, 1, 1])]), False),
    "add 0": (("Add", {}, [constant("z", np.zeros((3, 1, 1)))]), True),
    "add 1": (("Add", {}, [constant("z", np.ones((3, 1, 1)))]), False),
    "add a wider 0": (("Add", {}, [constant("z", np.zeros((2, 2, 3, 4, 5)))]), False),
    "sub 0": (("Sub", {}, [constant("z", 0.0)]), True),
    "mul 1": (("Mul", {}, [constant("z", 1.0)]), True),
    "div 1": (("Div", {}, [constant("z", 1.0)]), True),
    "div 2": (("Div", {}, [constant("z", 2.0)]), False),
}


@pytest.mark.parametrize("name", CASES)
def test_nodes(name):
    (op, attrs, constants), removed = CASES[name]
    x = gs.Variable("x", np.float32, list(X.shape))
    middle, y = gs.Variable("middle", np.float32), gs.Variable("y")
    first = gs.Node("Relu", "relu", {}, [x], [middle])
    changed = gs.Variable("changed")
    node = gs.Node(op, "node", attrs, [middle, *constants], [changed])
    last = gs.Node("Shape" if name == "another type" else "Neg", "last", {}, [changed], [y])
    y.dtype = np.dtype(INTS if name == "another type" else np.float32)
    graph = gs.Graph([first, node, last], [x], [y], opset=20)
    graph = to_graph(to_model(graph, {}))
    want = run(to_model(graph.copy(), {}), X, "x")["y"]
    done = [o.rewrites for o in apply(graph, [RemoveIdentities(), RemoveIdentities()])]
    assert done == [int(removed), 0]
    assert any(n.name == "node" for n in graph.nodes) != removed
    np.testing.assert_array_equal(run(to_model(graph, {}), X, "x")["y"], want)


def test_zero_minus_x_is_not_x():
    x, y = gs.Variable("x", np.float32, [2]), gs.Variable("y", np.float32, [2])
    middle = gs.Variable("m", np.float32, [2])
    nodes = [gs.Node("Sub", "sub", {}, [constant("z", [0.0, 0.0]), x], [middle])]
    nodes.append(gs.Node("Relu", "relu", {}, [middle], [y]))
    graph = gs.Graph(nodes, [x], [y], opset=20)
    assert apply(graph, [RemoveIdentities()])[0].rewrites == 0


def test_an_output_keeps_its_name():
    x, y = gs.Variable("x", np.float32, [2]), gs.Variable("y", np.float32, [2])
    graph = gs.Graph([gs.Node("Identity", "i", {}, [x], [y])], [x], [y], opset=20)
    assert apply(graph, [RemoveIdentities()])[0].rewrites == 0
    assert [t.name for t in graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("first", "second", "removed"),
    [([0, 3, 1, 2], [0, 2, 3, 1], True), ([0, 3, 1, 2], [0, 3, 1, 2], False)],
)
def test_a_transpose_and_its_inverse(first, second, removed):
    x, y = gs.Variable("x", np.float32, list(X.shape)), gs.Variable("y", np.float32)
    inner = [gs.Variable(name, np.float32) for name in ("a", "b", "c")]
    nodes = [
        gs.Node("Relu", "relu", {}, [x], [inner[0]]),
        gs.Node("Transpose", "first", {"perm": first}, [inner[0]], [inner[1]]),
        gs.Node("Transpose", "second", {"perm": second}, [inner[1]], [inner[2]]),
        gs.Node("Neg", "neg", {}, [inner[2]], [y]),
    ]
    graph = to_graph(to_model(gs.Graph(nodes, [x], [y], opset=20), {}))
    want = run(to_model(graph.copy(), {}), X, "x")["y"]
    rewrites = [o.rewrites for o in apply(graph, [RemoveIdentities(), RemoveIdentities()])]
    assert rewrites == [int(removed), 0]
    assert len(graph.nodes) == (2 if removed else 4)
    np.testing.assert_array_equal(run(to_model(graph, {}), X, "x")["y"], want)
