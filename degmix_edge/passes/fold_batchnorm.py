"""Fold a batch norm into the convolution before it: Q/DQ between them would stop the fold."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.passes._base import Pass


class FoldBatchnorm(Pass):
    """`Conv -> BatchNormalization` becomes `Conv`, where nothing else reads the convolution."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for norm in [n for n in graph.nodes if n.op == "BatchNormalization"]:
            source = norm.inputs[0]
            conv = source.inputs[0] if source.inputs else None
            if conv is None or conv.op != "Conv" or len(source.outputs) != 1:
                continue
            if source in graph.outputs or not isinstance(conv.inputs[1], gs.Constant):
                continue
            self._fold(conv, norm)
            rewrites += 1
        return rewrites

    @staticmethod
    def _fold(conv: gs.Node, norm: gs.Node) -> None:
        weight = conv.inputs[1]
        scale, shift, mean, variance = (tensor.values for tensor in norm.inputs[1:5])
        factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
        bias = conv.inputs[2].values if len(conv.inputs) > 2 else np.zeros_like(shift)
        shape = (-1,) + (1,) * (weight.values.ndim - 1)
        # New constants: another node may share the old ones.
        folded = gs.Constant(f"{conv.name}.weight", weight.values * factor.reshape(shape))
        shifted = gs.Constant(f"{conv.name}.bias", (bias - mean) * factor + shift)
        conv.inputs = [conv.inputs[0], folded, shifted]
        conv.outputs = [norm.outputs[0]]
        norm.outputs.clear()
