"""Map deformable convolutions to our TensorRT plugins.

DeMT's kind, 1x1 with an offset pair a channel, becomes `DegmixDeformSample` and a Conv; any other
becomes `DegmixDeformConv2d`. `ops.attach` gives both their function bodies.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant, import_domain
from degmix_edge.ops import DOMAIN, INT8_DOMAIN
from degmix_edge.ops.deform_conv2d import OP as CONV
from degmix_edge.ops.deform_sample import OP as SAMPLE
from degmix_edge.passes._base import Pass
from degmix_edge.passes.lower_deform_sample import LowerDeformSample
from degmix_edge.passes.requantize_samples import RequantizeSamples

DEFAULTS = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "offset_group": 1}


class LowerDeformToPlugin(Pass):
    """Every attribute is written out: a plugin that misses one must not guess."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = LowerDeformSample().run(graph)
        rest = [node for node in graph.nodes if node.op == "DeformConv"]
        for node in rest:
            _to_plugin(graph, node)
        rewrites += RequantizeSamples(int8_sampler=True).run(graph)
        for node in [n for n in graph.nodes if n.op == SAMPLE]:
            if node.inputs[0].dtype == "int8":
                node.domain = INT8_DOMAIN
                import_domain(graph, INT8_DOMAIN)
        for node in rest:
            import_domain(graph, node.domain)
        return rewrites + len(rest)


def _to_plugin(graph: gs.Graph, node: gs.Node) -> None:
    """Weights with channels last, a bias always, and the mask said by an attribute."""
    value, weight, offset, *more = node.inputs
    bias, mask = [*more, None, None][:2]
    outputs, _, *kernel = weight.shape
    scales: list[gs.Tensor] = []
    int8 = _int8(value, weight)
    if int8 is not None:
        value, stored, scales = *int8[:2], [int8[2]]
        weight = _channels_last(graph, node, stored)
        node.attrs["value_scale"] = 1.0
    elif weight.inputs and weight.inputs[0].op == "DequantizeLinear":
        dq = weight.inputs[0]
        dq.inputs[0] = _channels_last(graph, node, dq.inputs[0])
        weight.shape = dq.inputs[0].shape
    else:
        weight = _channels_last(graph, node, weight)
    if bias is None or bias.is_empty():
        bias = constant(f"{node.name}/bias", np.zeros(outputs))
    masks = [mask] if mask is not None else []
    node.inputs = [value, weight, offset, bias, *scales, *masks]
    attrs = {"kernel_shape": kernel, **DEFAULTS, **node.attrs, "mask": int(mask is not None)}
    node.op, node.domain = CONV, INT8_DOMAIN if scales else DOMAIN
    node.attrs = {**attrs, "plugin_version": "1", "plugin_namespace": DOMAIN}


def _int8(
    value: gs.Tensor, weight: gs.Tensor
) -> tuple[gs.Variable, gs.Constant, gs.Constant] | None:
    """Quantized values and weights, and the scale of their product for each output.

    None where one of the two is float. With the values' scale among those of the outputs, nodes of
    several tasks have equal attributes and go in one launch.
    """
    if not (_is_symmetric(value) and _is_symmetric(weight)):
        return None
    (stored, scale, *_), (weights, scales, *_) = (t.inputs[0].inputs for t in (value, weight))
    constants = all(isinstance(t, gs.Constant) for t in (scale, weights, scales))
    if not constants or isinstance(stored, gs.Constant) or scale.values.size != 1:
        return None
    products = scale.values.reshape(-1).astype(np.float32) * scales.values.astype(np.float32)
    per_output = np.broadcast_to(products, weights.shape[:1])
    return stored, weights, constant(f"{weights.name}/scales", per_output)


def _is_symmetric(tensor: gs.Tensor) -> bool:
    """Whether a DQ makes the tensor, with zeros at zero."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op != "DequantizeLinear" or maker.inputs[0].dtype != np.int8:
        return False
    zeros = maker.inputs[2:]
    return not zeros or (isinstance(zeros[0], gs.Constant) and not zeros[0].values.any())


def _channels_last(graph: gs.Graph, node: gs.Node, weight: gs.Tensor) -> gs.Tensor:
    if isinstance(weight, gs.Constant):
        values = np.ascontiguousarray(weight.values.transpose(0, 2, 3, 1))
        return gs.Constant(f"{weight.name}/{node.name}", values)
    name = f"{node.name}/weight"
    turned = append(graph, "Transpose", [weight], name, weight.dtype, perm=[0, 2, 3, 1])
    turned.shape = [weight.shape[axis] for axis in (0, 2, 3, 1)]
    return turned
