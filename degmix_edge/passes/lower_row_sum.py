"""Sum the rows of a matrix by a product with ones, so that a batch gives what single images give.

ONNX Runtime's CPU kernel adds the L rows of `(1, L, C)` in another order than those of
`(4, L, C)`. The sums differ in their last bits, and INT8 makes whole steps of a few of them. A
product with a row of ones is the same for each image, however many there are.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass


class LowerRowSum(Pass):
    """ReduceSum or ReduceMean of float32 `(..., L, C)` over L becomes a MatMul `(1, L) x (L, C)`.

    Two rows stay, because their sum has one order only.
    """

    def run(self, graph: gs.Graph) -> int:
        sums = [node for node in graph.nodes if _is_row_sum(node)]
        for node in sums:
            taken, out = node.inputs[0], node.outputs[0]
            length = taken.shape[-2]
            value = 1 / length if node.op == "ReduceMean" else 1.0
            row = constant(f"{node.name}/row", np.full((1, length), value, np.float32))
            node.inputs, node.outputs = [], []
            total = append(graph, "MatMul", [row, taken], f"{node.name}/product", np.float32)
            if node.attrs.get("keepdims", 1):
                total.inputs[0].outputs = [out]
                continue
            axis = constant(f"{node.name}/axis", [-2], np.int64)
            append(graph, "Squeeze", [total, axis], f"{node.name}/squeezed", np.float32)
            graph.nodes[-1].outputs = [out]
        return len(sums)


def _is_row_sum(node: gs.Node) -> bool:
    if node.op not in ("ReduceSum", "ReduceMean") or node.inputs[0].dtype != np.float32:
        return False
    shape = node.inputs[0].shape or []
    has_axes = len(node.inputs) == 2 and isinstance(node.inputs[1], gs.Constant)
    if len(shape) < 3 or not isinstance(shape[-2], int) or not has_axes:
        return False
    axes = [int(axis) % len(shape) for axis in node.inputs[1].values]
    return shape[-2] > 2 and axes == [len(shape) - 2]
