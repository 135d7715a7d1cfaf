"""Keep OpenVINO from moving a Q above a Concat, where it takes another scale.

OpenVINO 2026.4 moves `Concat -> Q (int8)` to `Q -> Concat`, and then quantizes with a step that can
be ten times too large: values of 22 levels were found where the scale has 213. The same pair in
uint8 around 128 has the same numbers and moves as it should, but its integer MatMul takes no zero
point. So a pair that only convolutions read becomes uint8, and any other is parted from its Concat
by a Max with the lowest number, which nothing moves through.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Clip", "Relu", "MaxPool", "Slice")
"""What a Q is moved through, too."""
MIDDLE = 128
LOWEST = float(np.finfo(np.float32).min)


class GuardConcatScale(Pass):
    """INT8 pairs behind a Concat become uint8, or get a Max before them."""

    def run(self, graph: gs.Graph) -> int:
        pairs = [n for n in graph.nodes if n.op == "QuantizeLinear" and _is_behind_concat(n)]
        pairs = [n for n in pairs if n.outputs[0].dtype == np.int8]
        for node in pairs:
            readers = [reader for dq in node.outputs[0].outputs for reader in _readers(dq)]
            if all(reader.op == "Conv" for reader in readers):
                _to_uint8(node)
            else:
                low = constant(f"{node.name}/lowest", LOWEST)
                values = [node.inputs[0], low]
                node.inputs[0] = append(graph, "Max", values, f"{node.name}/kept", np.float32)
        return len(pairs)


def _is_behind_concat(node: gs.Node) -> bool:
    while node.inputs and node.inputs[0].inputs:
        node = node.inputs[0].inputs[0]
        if node.op not in MOVES:
            return bool(node.op == "Concat")
    return False


def _readers(node: gs.Node) -> list[gs.Node]:
    return [reader for out in node.outputs for reader in out.outputs]


def _to_uint8(quantize: gs.Node) -> None:
    quantized = quantize.outputs[0]
    quantized.dtype = np.dtype(np.uint8)
    zero = constant(f"{quantize.name}/middle", MIDDLE, np.uint8)
    for node in (quantize, *quantized.outputs):
        node.inputs[2] = zero
