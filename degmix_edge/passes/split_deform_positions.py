"""Take the positions out of the convolution that makes the offsets of DeMT's sampling.

The convolution sums a constant position of up to a map's side, in pixels, and 18 maps of a few
pixels. In FP16 or TF32 the position alone would be wrong by a tenth of a pixel. What it makes of
the positions is an affine function of y or x (see `ops.deform_sample_fused`), which
`DegmixDeformSampleAt` adds in FP32, so that the convolution may run in FP16.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.graph.model import constant
from degmix_edge.ops.deform_sample import AT_OP, OP
from degmix_edge.passes._base import Pass
from degmix_edge.passes.fuse_deform_offsets import expansion_of


class SplitDeformPositions(Pass):
    """The sampling gets a table; the convolution keeps its name and weight, and has no bias."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for sampler in [n for n in graph.nodes if n.op == OP]:
            expansion = expansion_of(sampler)
            if expansion is None:
                continue
            expansion.conv.inputs = [expansion.maps, expansion.conv.inputs[1]]
            sampler.op = AT_OP
            sampler.inputs.append(constant(f"{sampler.name}/position", expansion.position))
            rewrites += 1
        return rewrites
