"""Give the products behind a lowered deformable convolution INT8 samples.

`DQ -> sample -> Conv` has float products. A bilinear sample is a convex combination of values, and
of zeros outside, so samples have the scale of what is sampled:

- a builder with an INT8 sampler takes `Q -> sample(int8) -> DQ -> Conv`;
- elsewhere the pair moves behind the sampling: `sample -> Q -> DQ -> Conv`, with the same scale.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append
from degmix_edge.ops.deform_sample import AT_OP, OP
from degmix_edge.passes._base import Pass

SAMPLERS = (OP, AT_OP, "DegmixDeformSampleFused", "GridSample")
SAME_SCALE = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Mul")
"""What a lowering puts around its sampler; a Mul is by the modulation, at most one."""


class RequantizeSamples(Pass):
    """Makes the samples of a lowered deformable convolution INT8.

    Args:
        int8_sampler: The builder's `DegmixDeformSample` samples INT8.
    """

    def __init__(self, *, int8_sampler: bool = False) -> None:
        self.int8_sampler = int8_sampler

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for conv in [n for n in graph.nodes if n.op == "Conv" and _maker(n.inputs[1], DQ)]:
            sampler = _behind(conv.inputs[0], SAMPLERS)
            reader, pair = (sampler, None) if sampler is None else _dequantized(sampler)
            if sampler is None or pair is None:
                continue
            if self.int8_sampler and sampler.op == OP:
                self._sample_int8(graph, sampler, pair)
            else:
                self._move_pair(graph, conv, reader, pair)
            rewrites += 1
        return rewrites

    @staticmethod
    def _sample_int8(graph: gs.Graph, sampler: gs.Node, pair: gs.Node) -> None:
        sampled = sampler.outputs[0]
        quantized = gs.Variable(f"{sampled.name}/int8", np.int8, sampled.shape)
        sampler.inputs[0], sampler.outputs = pair.inputs[0], [quantized]
        inputs = [quantized, *pair.inputs[1:]]
        graph.nodes.append(gs.Node(DQ, f"{sampled.name}/dq", {}, inputs, [sampled]))

    @staticmethod
    def _move_pair(graph: gs.Graph, conv: gs.Node, reader: gs.Node, pair: gs.Node) -> None:
        reader.inputs[0] = pair.inputs[0].inputs[0].inputs[0]
        samples, scale = conv.inputs[0], pair.inputs[1:]
        q = append(graph, "QuantizeLinear", [samples, *scale], f"{samples.name}/q", np.int8)
        conv.inputs[0] = append(graph, DQ, [q, *scale], f"{samples.name}/dq", np.float32)


DQ = "DequantizeLinear"


def _maker(tensor: gs.Variable | gs.Constant, *ops: str) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs and tensor.inputs[0].op in ops else None


def _behind(tensor: gs.Variable, ops: tuple[str, ...]) -> gs.Node | None:
    """The first node of `ops` that nodes of `SAME_SCALE` alone part from `tensor`."""
    while (node := _maker(tensor, *ops, *SAME_SCALE)) is not None:
        if node.op in ops:
            return node
        tensor = node.inputs[0]
    return None


def _dequantized(sampler: gs.Node) -> tuple[gs.Node, gs.Node | None]:
    """The DQ that the sampler's values come from, and the node that reads it."""
    reader = sampler
    while (node := _maker(reader.inputs[0], DQ, *SAME_SCALE)) is not None:
        if node.op == DQ:
            quantized = _maker(node.inputs[0], "QuantizeLinear")
            return reader, node if quantized is not None else None
        reader = node
    return reader, None
