"""Give our plugin the convolution that makes the offsets of DeMT's sampling.

It is a 3x3 convolution of nine maps in each of two groups, which libraries are slow at, and its two
output maps a channel are most of what the sampling reads. `DegmixDeformOffsets` is a kernel for it
alone. The kernel is FP16, so this is a pass for engines with FP16 layers. It runs after
`split_deform_positions`, which leaves a convolution without bias.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.graph.model import constant
from degmix_edge.ops import DOMAIN
from degmix_edge.ops.deform_offsets import CHANNELS, OP, pack
from degmix_edge.ops.deform_sample import AT_OP
from degmix_edge.passes._base import Pass
from degmix_edge.passes.split_deform_positions import convolution_of


class LowerDeformOffsets(Pass):
    """The convolution of a sampling with a table of positions becomes our operator, of its name."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for sampler in [n for n in graph.nodes if n.op == AT_OP]:
            conv = convolution_of(sampler)
            channels = sampler.attrs["channels"]
            if conv is None or len(conv.inputs) > 2 or channels % CHANNELS:
                continue
            conv.op, conv.domain = OP, DOMAIN
            weight = pack(conv.inputs[1].values)
            conv.inputs[1] = constant(f"{conv.name}/packed", weight)
            conv.attrs = {"channels": channels, "plugin_version": "1", "plugin_namespace": DOMAIN}
            rewrites += 1
        return rewrites
