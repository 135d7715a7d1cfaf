"""What depends on constants only becomes one: coordinate grids, reshaped weights."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime

from degmix_edge.graph.model import constant, replace_uses
from degmix_edge.passes._base import Pass


class FoldConstants(Pass):
    """Nodes whose inputs are all constant become constants, as graph-surgeon folds them.

    A DQ of stored weights is no such node: it keeps them small.
    """

    def run(self, graph: gs.Graph) -> int:
        # graph-surgeon folds with ONNX Runtime, which warns of what it leaves.
        onnxruntime.set_default_logger_severity(3)
        before = len(graph.nodes)
        _fold_shapes(graph)
        graph.fold_constants(
            fold_shapes=False, should_exclude_node=lambda node: node.op == "DequantizeLinear"
        ).cleanup()
        return before - len(graph.nodes)


def _fold_shapes(graph: gs.Graph) -> None:
    """Fold Shape of static tensors; graph-surgeon overlooks its `start` and `end`."""
    for node in graph.nodes:
        shape = node.inputs[0].shape if node.op == "Shape" else None
        if shape is None or not all(isinstance(side, int) for side in shape):
            continue
        if any(output is node.outputs[0] for output in graph.outputs):
            continue
        part = shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
        replace_uses(node.outputs[0], constant(node.outputs[0].name, part, np.int64))
        node.outputs.clear()
