"""Run weighted nodes in FP16: weights stored as FP16, casts around the node, all else FP32.

Norms, softmax, reductions, coordinates and decodes are no weighted nodes, so they stay FP32; the
recipe keeps the offset branch FP32 too.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.passes._base import Pass, append
from degmix_edge.quant.recipe import Recipe, is_weighted

FLOAT, FLOAT16 = 1, 10


class InsertFp16(Pass):
    """Every FP16 node of `recipe` reads and writes FP16; consumers of one tensor share its cast."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def run(self, graph: gs.Graph) -> int:
        """See `Pass`."""
        chosen = self.recipe.nodes("fp16")
        nodes = [n for n in graph.nodes if n.name in chosen and is_weighted(n)]
        nodes = [n for n in nodes if n.inputs[1].dtype == np.float32]
        casts: dict[str, gs.Variable] = {}
        for node in nodes:
            tensor = node.inputs[0]
            if tensor.name not in casts:
                name = f"{tensor.name}/fp16"
                casts[tensor.name] = append(graph, "Cast", [tensor], name, np.float16, to=FLOAT16)
            constants = [_half(node, tensor) for tensor in node.inputs[1:]]
            node.inputs = [casts[tensor.name], *constants]
            out = node.outputs[0]
            half = gs.Variable(f"{out.name}/half", np.float16)
            node.outputs = [half]
            cast = {"to": FLOAT}
            graph.nodes.append(gs.Node("Cast", f"{out.name}/fp32", cast, [half], [out]))
        return len(nodes)


def _half(node: gs.Node, tensor: gs.Constant) -> gs.Constant:
    largest = float(np.abs(tensor.values).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise GraphError(
            f"{node.name}: a weight of {largest:.3g} does not fit FP16; keep it float with "
            f"--keep-float {node.name}"
        )
    return gs.Constant(f"{tensor.name}/fp16/{node.name}", tensor.values.astype(np.float16))
