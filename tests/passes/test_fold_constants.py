"""Shapes of static tensors are constants."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper
from test_passes import run

from degmix_edge import ort
from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.passes._base import apply
from degmix_edge.passes.fold_constants import FoldConstants

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("ends", "rest"),
    [({}, []), ({"start": 1}, [2]), ({"end": -1}, [4]), ({"start": -2, "end": 2}, [2, 4])],
)
def test_a_part_of_a_shape(ends, rest):
    """graph-surgeon folds Shape without its `start` and `end`."""
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Shape", ["n"], ["s"], **ends),
        helper.make_node("Concat", ["s", "rest"], ["z"], axis=0),
        helper.make_node("Reshape", ["n", "z"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", 1, list(X.shape))
    y = helper.make_tensor_value_info("y", 1, None)
    weights = [numpy_helper.from_array(np.array(rest, np.int64), "rest")]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folded = to_graph(model)
    assert [o.rewrites for o in apply(folded, [FoldConstants(), FoldConstants()])] == [2, 0]
    result = to_model(folded, {})
    assert [node.op_type for node in result.graph.node] == ["Neg", "Reshape"]
    np.testing.assert_array_equal(run(result, X, "x")["y"], run(model, X, "x")["y"])


def test_an_output_that_is_constant_is_still_given_by_a_node():
    shape = [1, 3, 4, 6]
    image = gs.Variable("x", np.float32, shape)
    sides, same = gs.Variable("sides", np.int64, [4]), gs.Variable("same", np.float32, shape)
    nodes = [gs.Node("Shape", "s", {}, [image], [sides]), gs.Node("Relu", "r", {}, [image], [same])]
    graph = gs.Graph(nodes, [image], [sides, same], opset=20)
    FoldConstants().run(graph)
    model = to_model(graph, {})
    assert sorted(node.op_type for node in model.graph.node) == ["Identity", "Relu"]
    feeds = {"x": np.ones(shape, np.float32)}
    got = ort.cpu_session(model.SerializeToString()).run(None, feeds)
    assert got[0].tolist() == shape
