"""Fold a batch norm into the convolution before it: Q/DQ between them would stop the fold.

A deformable convolution is linear in its weights too, whatever its offsets and modulation are.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.passes._base import Pass

BIAS_AT = {"Conv": 2, "DeformConv": 3}
"""Which input is the bias, by operator."""


class FoldBatchnorm(Pass):
    """`Conv -> BatchNormalization` becomes `Conv`, where nothing else reads the convolution.

    The same holds for `DeformConv`.
    """

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for norm in [n for n in graph.nodes if is_static_norm(n)]:
            source = norm.inputs[0]
            conv = source.inputs[0] if source.inputs else None
            if conv is None or conv.op not in BIAS_AT or len(source.outputs) != 1:
                continue
            if source in graph.outputs or not _is_constant(_weights(conv)):
                continue
            self._fold(conv, norm)
            rewrites += 1
        return rewrites

    @staticmethod
    def _fold(conv: gs.Node, norm: gs.Node) -> None:
        weight, *biases = (tensor.values for tensor in _weights(conv))
        factor, shift = norm_line(norm)
        bias = biases[0] if biases else 0
        shape = (-1,) + (1,) * (weight.ndim - 1)
        values = (weight * factor.reshape(shape), bias * factor + shift)
        # New constants: another node may share the old ones.
        folded = [
            gs.Constant(f"{conv.name}.{name}", value.astype(weight.dtype))
            for name, value in zip(("weight", "bias"), values, strict=True)
        ]
        at = BIAS_AT[conv.op]
        first, rest = conv.inputs[2:at], conv.inputs[at + 1 :]
        conv.inputs = [conv.inputs[0], folded[0], *first, folded[1], *rest]
        conv.outputs = [norm.outputs[0]]
        norm.outputs.clear()


def _weights(conv: gs.Node) -> list[gs.Tensor]:
    """The weight of a convolution and its bias, if it has one."""
    bias = conv.inputs[BIAS_AT[conv.op] : BIAS_AT[conv.op] + 1]
    return [conv.inputs[1], *(tensor for tensor in bias if not tensor.is_empty())]


def is_static_norm(node: gs.Node) -> bool:
    """Whether a node is a batch norm with stored statistics, a factor and an offset a channel."""
    return (
        node.op == "BatchNormalization"
        and len(node.outputs) == 1
        and not node.attrs.get("training_mode", 0)
        and node.attrs.get("spatial", 1) == 1
        and _is_constant(node.inputs[1:])
    )


def norm_line(norm: gs.Node) -> tuple[np.ndarray, np.ndarray]:
    """The factor and the offset of each channel that a static norm applies, in float64."""
    scale, shift, mean, variance = (t.values.astype(np.float64) for t in norm.inputs[1:5])
    factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    return factor, shift - mean * factor


def _is_constant(tensors: list[gs.Tensor]) -> bool:
    return all(isinstance(tensor, gs.Constant) for tensor in tensors)
