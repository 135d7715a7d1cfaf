"""Let an INT8 deformable convolution store INT8, where a Q is all that reads it.

`conv -> Q` and `conv -> Relu -> Q` are then one kernel. The map crosses memory once as INT8, and
not three times as floats. The Q's scale is divided out of the scales and the bias of the outputs,
which a Relu allows because it is positive. Nodes of several tasks thus have equal attributes.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import constant, import_domain
from degmix_edge.ops import INT8_DOMAIN, INT8_OUT_DOMAIN
from degmix_edge.ops.deform_conv2d import OP
from degmix_edge.passes._base import Pass

BIAS, SCALES = 3, 4
"""Inputs of an INT8 convolution."""


class FuseDeformOutput(Pass):
    """It runs behind `lower_deform_to_plugin`, and before FP16, whose casts would stand between."""

    def run(self, graph: gs.Graph) -> int:
        nodes = [n for n in graph.nodes if n.op == OP and n.domain == INT8_DOMAIN]
        rewrites = sum(_fuse(graph, node) for node in nodes if "items" not in node.attrs)
        if rewrites:
            import_domain(graph, INT8_OUT_DOMAIN)
        return rewrites


def _fuse(graph: gs.Graph, node: gs.Node) -> int:
    reader = _only_reader(graph, node)
    activation = "none"
    if reader is not None and reader.op == "Relu":
        activation, reader = "relu", _only_reader(graph, reader)
    scale = _scale_to_int8(reader)
    if reader is None or scale is None or not isinstance(node.inputs[BIAS], gs.Constant):
        return 0
    for index in (BIAS, SCALES):
        tensor = node.inputs[index]
        node.inputs[index] = constant(f"{tensor.name}/{node.name}/q", tensor.values / scale)
    node.attrs |= {"activation": activation, "output_scale": 1.0}
    node.domain = INT8_OUT_DOMAIN
    node.outputs = [reader.outputs[0]]
    reader.outputs.clear()
    return 1


def _only_reader(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """The node that alone reads a node's output; None if the graph gives the output away too."""
    out = node.outputs[0]
    is_output = any(out is tensor for tensor in graph.outputs)
    return out.outputs[0] if len(out.outputs) == 1 and not is_output else None


def _scale_to_int8(node: gs.Node | None) -> np.float32 | None:
    """The scale of a Q to symmetric INT8 with one scale; None of any other node."""
    if node is None or node.op != "QuantizeLinear" or node.outputs[0].dtype != np.int8:
        return None
    scale, *zeros = node.inputs[1:]
    constants = all(isinstance(tensor, gs.Constant) for tensor in (scale, *zeros))
    if not constants or scale.values.size != 1 or any(zero.values.any() for zero in zeros):
        return None
    return np.float32(scale.values.reshape(-1)[0])
