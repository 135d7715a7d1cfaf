"""Round both inputs of chosen products to bfloat16: precision lives in the graph, as Q/DQ does.

A product in bfloat16 takes rounded numbers and adds exact products of them in FP32. Two casts
before each input say that to every backend. One that computes in FP32 gives what a processor with
bfloat16 gives, within the rounding of sums; one that has bfloat16 takes the casts away.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append
from degmix_edge.passes._base import Pass
from degmix_edge.quant.recipe import Recipe

FLOAT, BFLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16


class InsertBf16(Pass):
    """Both inputs of every bfloat16 node of `recipe` pass a pair of casts; readers share one."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def run(self, graph: gs.Graph) -> int:
        chosen = self.recipe.nodes("bf16")
        nodes = [node for node in graph.nodes if node.name in chosen]
        nodes = [node for node in nodes if not is_rounded(node.inputs[0])]
        pairs: dict[str, gs.Variable] = {}
        for node in nodes:
            for index, tensor in enumerate(node.inputs[:2]):
                if tensor.name not in pairs:
                    pairs[tensor.name] = _pair(graph, tensor)
                node.inputs[index] = pairs[tensor.name]
        return len(nodes)


def _pair(graph: gs.Graph, tensor: gs.Variable | gs.Constant) -> gs.Variable:
    narrow = gs.Variable(f"{tensor.name}/bf16", BFLOAT16, tensor.shape)
    graph.nodes.append(gs.Node("Cast", narrow.name, {"to": BFLOAT16}, [tensor], [narrow]))
    wide = append(graph, "Cast", [narrow], f"{tensor.name}/rounded", np.float32, to=FLOAT)
    wide.shape = tensor.shape
    return wide


def is_rounded(tensor: gs.Variable | gs.Constant) -> bool:
    """Return whether a tensor comes out of a pair of casts, from FP32 and back."""
    widen = tensor.inputs[0] if tensor.inputs else None
    if widen is None or widen.op != "Cast" or widen.attrs["to"] != FLOAT:
        return False
    narrow = widen.inputs[0].inputs[0] if widen.inputs[0].inputs else None
    return narrow is not None and narrow.op == "Cast" and narrow.attrs["to"] == BFLOAT16
