"""What depends on constants only becomes one: coordinate grids, reshaped weights, static shapes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime

from degmix_edge.graph.model import infer_shapes
from degmix_edge.passes._base import Pass

KEPT = {"DequantizeLinear", "Bernoulli", "Multinomial"}
KEPT |= {f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")}
"""A DQ keeps stored weights small; the others give another result each time."""


class FoldConstants(Pass):
    """Nodes whose inputs are all constant become constants, and so do shapes that are static.

    A folded shape makes others known, so both are done until nothing changes.
    """

    def run(self, graph: gs.Graph) -> int:
        # graph-surgeon folds with ONNX Runtime, which warns of what it leaves.
        onnxruntime.set_default_logger_severity(3)
        rewrites = 0
        while True:
            before = len(graph.nodes)
            for node in graph.nodes:
                _fold_shape(node)
            _fold(graph.cleanup())
            graph.cleanup()
            if len(graph.nodes) == before:
                return rewrites
            rewrites += before - len(graph.nodes)
            infer_shapes(graph)


def _fold(graph: gs.Graph) -> None:
    # graph-surgeon's own folding of shapes is left out. It ignores `start` and `end`, and rounds
    # float factors that stand between two casts.
    def fold(**settings: object) -> None:
        graph.fold_constants(
            fold_shapes=False, should_exclude_node=lambda node: node.op in KEPT, **settings
        )

    try:
        fold(error_ok=False)
    except Exception:  # ONNX Runtime refuses one node, which shall not keep the others
        fold(partitioning="recursive")


def _fold_shape(node: gs.Node) -> None:
    """Make a constant of the shape of a tensor whose sides are all known."""
    if node.op != "Shape" or isinstance(node.inputs[0], gs.Constant):
        return
    sides = node.inputs[0].shape
    if sides is None:
        return
    sides = sides[node.attrs.get("start", 0) : node.attrs.get("end")]
    if all(isinstance(side, int) for side in sides):
        (output,) = node.outputs
        node.outputs.clear()
        output.to_constant(np.array(sides, dtype=np.int64))
