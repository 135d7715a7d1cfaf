"""Split a deformable convolution of DeMT's kind into its sampling and its product.

`DeformConv` with a 1x1 kernel and one offset pair a channel is a bilinear sample of each channel
(`DegmixDeformSample`, see `plugins/deform_sample`) and a 1x1 convolution, which every backend has
its best kernel for, INT8 included. Others, with a larger kernel or shared offsets, are left alone.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.graph.model import import_domain
from degmix_edge.ops import DOMAIN
from degmix_edge.ops.deform_sample import OP
from degmix_edge.passes._base import Pass


class LowerDeformSample(Pass):
    """The convolution keeps the node's name and output; the sampling is `<name>/sample`."""

    def run(self, graph: gs.Graph) -> int:
        nodes = [n for n in graph.nodes if n.op == "DeformConv" and is_per_channel(n)]
        for node in nodes:
            value, weight, offset, *bias = node.inputs
            name = f"{node.name}/sample"
            channels = _stored(weight).shape[1]
            shape = None if offset.shape is None else [offset.shape[0], channels, *offset.shape[2:]]
            sampled = gs.Variable(name, value.dtype, shape)
            attrs = {"channels": channels, "plugin_version": "1", "plugin_namespace": DOMAIN}
            graph.nodes.append(gs.Node(OP, name, attrs, [value, offset], [sampled], domain=DOMAIN))
            node.op, node.attrs = "Conv", {"kernel_shape": [1, 1]}
            node.inputs = [sampled, weight, *(t for t in bias if not t.is_empty())]
        if nodes:
            import_domain(graph, DOMAIN)
        return len(nodes)


def is_per_channel(node: gs.Node) -> bool:
    """Whether a DeformConv has a 1x1 kernel that neither strides nor pads, and an offset a channel.

    A modulation is not part of the operator.
    """
    weight = node.inputs[1]
    stored = _stored(weight)
    attrs = node.attrs
    plain = (
        attrs.get("group", 1) == 1
        and list(attrs.get("strides", [1, 1])) == [1, 1]
        and not any(attrs.get("pads", [0]))
        and list(attrs.get("dilations", [1, 1])) == [1, 1]
    )
    if not plain or len(node.inputs) > 4 or not isinstance(stored, gs.Constant):
        return False
    _, inputs, *kernel = stored.shape
    return bool(kernel == [1, 1] and attrs.get("offset_group", 1) == inputs)


def _stored(weight: gs.Tensor) -> gs.Tensor:
    """The constant itself, or the one behind a DQ."""
    return weight.inputs[0].inputs[0] if weight.inputs else weight
