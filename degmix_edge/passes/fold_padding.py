"""Fold zero padding into the convolution after it, which pads by itself.

TensorFlow's networks pad more at the bottom and the right than at the top and the left, and export
writes that as a Pad. It would copy the map, and Q/DQ would stand between the two.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.passes._base import Pass

PADS_AS_INPUT = 11
"""The opset since which Pad takes its amounts and its value as inputs."""


class FoldPadding(Pass):
    """`Pad -> Conv` becomes `Conv`, where the padding is zero and nothing else reads it.

    Padding as large as the kernel stays, because not every builder takes it.
    """

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for conv in [node for node in graph.nodes if node.op == "Conv"]:
            source = conv.inputs[0]
            pad = source.inputs[0] if source.inputs else None
            if pad is None or pad.op != "Pad" or len(source.outputs) != 1:
                continue
            pads = _joined(pad, conv, graph.opset)
            if source in graph.outputs or pads is None:
                continue
            conv.attrs["pads"] = pads
            conv.inputs[0] = pad.inputs[0]
            rewrites += 1
        return rewrites


def _joined(pad: gs.Node, conv: gs.Node, opset: int) -> list[int] | None:
    """The padding of both nodes together; None where one node cannot have it."""
    weight = conv.inputs[1].shape
    amounts = _amounts(pad, opset)
    if amounts is None or weight is None or len(amounts) != 2 * len(weight):
        return None
    first, last = amounts[: len(weight)], amounts[len(weight) :]
    if conv.attrs.get("auto_pad", "NOTSET") != "NOTSET" or min(amounts) < 0:
        return None
    if any(first[:2]) or any(last[:2]):
        return None
    sides = weight[2:]
    own = conv.attrs.get("pads", [0] * 2 * len(sides))
    pads = [a + b for a, b in zip(own, (*first[2:], *last[2:]), strict=True)]
    dilations = conv.attrs.get("dilations", [1] * len(sides))
    reach = [(side - 1) * step for side, step in zip(sides, dilations, strict=True)]
    return pads if all(p <= r for p, r in zip(pads, 2 * reach, strict=True)) else None


def _amounts(pad: gs.Node, opset: int) -> list[int] | None:
    """What a Pad adds at the start of every axis, then at the end; None unless it adds zeros."""
    if pad.attrs.get("mode", "constant") != "constant":
        return None
    if opset < PADS_AS_INPUT:
        value, amounts = pad.attrs.get("value", 0.0), pad.attrs.get("pads")
        return list(amounts) if amounts is not None and value == 0 else None
    given = [tensor for tensor in pad.inputs[1:] if tensor.name]
    if not given or not all(isinstance(tensor, gs.Constant) for tensor in given):
        return None
    has_value = len(pad.inputs) > 2 and pad.inputs[2].name
    if has_value and np.any(pad.inputs[2].values != 0):
        return None
    amounts = [int(n) for n in pad.inputs[1].values.ravel()]
    return None if len(pad.inputs) > 3 and pad.inputs[3].name else amounts
