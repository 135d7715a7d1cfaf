"""Undo `insert_bf16`: what remains of a graph is its FP32 function.

A backend without bfloat16 computes that. For one that has it, casts would stand between nodes that
other passes look for, and its engine says in another way what is bfloat16.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.graph.model import replace_uses
from degmix_edge.passes._base import Pass
from degmix_edge.passes.insert_bf16 import is_rounded


class RemoveBf16(Pass):
    """Takes the pairs of casts from FP32 to bfloat16 and back away."""

    def run(self, graph: gs.Graph) -> int:
        pairs = [n for n in graph.nodes if n.op == "Cast" and is_rounded(n.outputs[0])]
        for widen in pairs:
            replace_uses(widen.outputs[0], widen.inputs[0].inputs[0].inputs[0])
            widen.outputs.clear()
        return len(pairs)
