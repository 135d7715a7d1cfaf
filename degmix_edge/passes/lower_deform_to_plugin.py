"""Map deformable convolutions to our TensorRT plugins.

DeMT's kind, 1x1 with an offset pair a channel, becomes `DegmixDeformSample` and a Conv; any other
becomes `DegmixDeformConv2d`. `ops.attach` gives both their function bodies.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.ops import DOMAIN, INT8_DOMAIN
from degmix_edge.ops.deform_conv2d import OP as CONV
from degmix_edge.ops.deform_sample import OP as SAMPLE
from degmix_edge.passes._base import Pass, import_domain
from degmix_edge.passes.lower_deform_sample import LowerDeformSample
from degmix_edge.passes.requantize_samples import RequantizeSamples

DEFAULTS = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "offset_group": 1}


class LowerDeformToPlugin(Pass):
    """Every attribute is written out: a plugin that misses one must not guess."""

    def run(self, graph: gs.Graph) -> int:
        """See `Pass`."""
        rewrites = LowerDeformSample().run(graph)
        rest = [node for node in graph.nodes if node.op == "DeformConv"]
        for node in rest:
            weight = node.inputs[1]
            stored = weight.inputs[0].inputs[0] if weight.inputs else weight
            attrs = {"kernel_shape": list(stored.shape[2:]), **DEFAULTS, **node.attrs}
            node.op, node.domain = CONV, DOMAIN
            node.attrs = {**attrs, "plugin_version": "1", "plugin_namespace": DOMAIN}
        rewrites += RequantizeSamples(int8_sampler=True).run(graph)
        for node in [n for n in graph.nodes if n.op == SAMPLE]:
            if node.inputs[0].dtype == "int8":
                node.domain = INT8_DOMAIN
                import_domain(graph, INT8_DOMAIN)
        if rest:
            import_domain(graph, DOMAIN)
        return rewrites + len(rest)
