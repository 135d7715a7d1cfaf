"""Undo `insert_fp16`: every FP16 tensor of a graph becomes FP32, and its casts go.

The forms of deformable operators are chosen on a float graph, because a cast may stand between any
two nodes of an FP16 one. `insert_fp16` runs again behind them and puts FP16 where it was.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import replace_uses
from degmix_edge.passes._base import Pass

FLOAT, FLOAT16 = 1, 10
TYPES = ("to", "dtype", "output_dtype")
"""Attributes that name a type."""


class RemoveFp16(Pass):
    """Widens weights and variables; FP16 values are FP32 values, so weights stay the same numbers.

    A graph with branches or loops is left as it is.
    """

    def run(self, graph: gs.Graph) -> int:
        if any(isinstance(value, gs.Graph) for n in graph.nodes for value in n.attrs.values()):
            return 0
        half = [t for t in graph.tensors().values() if t.dtype == np.float16]
        for tensor in half:
            if isinstance(tensor, gs.Constant):
                tensor.values = tensor.values.astype(np.float32)
            else:
                tensor.dtype = np.dtype(np.float32)
        for node in list(graph.nodes):
            for name in TYPES:
                if node.attrs.get(name) == FLOAT16:
                    node.attrs[name] = FLOAT
            value = node.attrs.get("value")
            if value is not None and getattr(value, "dtype", None) == np.float16:
                node.attrs["value"] = _widened(value)
            if half and node.op == "Cast" and node.inputs[0].dtype == np.float32:
                _remove_cast(graph, node)
        return len(half)


def _widened(value: np.ndarray | gs.Constant) -> np.ndarray:
    values = value.values if isinstance(value, gs.Constant) else value
    return values.astype(np.float32)


def _remove_cast(graph: gs.Graph, node: gs.Node) -> None:
    """From FP32 to FP32; one that makes an output of the graph stays, and so does any other."""
    if node.outputs[0].dtype == np.float32 and node.outputs[0] not in graph.outputs:
        replace_uses(node.outputs[0], node.inputs[0])
        node.outputs.clear()
