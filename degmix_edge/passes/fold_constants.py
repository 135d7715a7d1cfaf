"""What depends on constants only becomes one: coordinate grids, reshaped weights."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import onnxruntime

from degmix_edge.passes._base import Pass


class FoldConstants(Pass):
    """Nodes whose inputs are all constant become constants, as graph-surgeon folds them.

    A DQ of stored weights is no such node: it keeps them small.
    """

    def run(self, graph: gs.Graph) -> int:
        # graph-surgeon folds with ONNX Runtime, which warns of what it leaves.
        onnxruntime.set_default_logger_severity(3)
        before = len(graph.nodes)
        graph.fold_constants(
            should_exclude_node=lambda node: node.op == "DequantizeLinear"
        ).cleanup()
        return before - len(graph.nodes)
