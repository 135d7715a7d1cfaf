"""Shapes of static tensors are constants."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from test_passes import run

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
