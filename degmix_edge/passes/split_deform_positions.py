"""Take the positions out of the convolution that makes the offsets of DeMT's sampling.

The convolution sums a constant position of up to a map's side, in pixels, and 18 maps of a few
pixels. In FP16 or TF32 the position alone would be wrong by a tenth of a pixel. What it makes of
the positions is an affine function of y or x (see `ops.deform_offsets`), which
`DegmixDeformSampleAt` adds in FP32, so that the convolution may run in FP16.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import constant
from degmix_edge.ops.deform_offsets import MAPS, position_table
from degmix_edge.ops.deform_sample import AT_OP, OP
from degmix_edge.passes._base import Pass


class SplitDeformPositions(Pass):
    """The sampling gets a table; the convolution keeps its name and weight, and has no bias.

    Args:
        most: Samplings of more samples keep their positions; None splits all.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for sampler in [n for n in graph.nodes if n.op == OP]:
            conv = convolution_of(sampler)
            is_small = self.most is None or samples_of(sampler) <= self.most
            found = _maps_and_table(conv) if conv is not None and is_small else None
            if conv is None or found is None:
                continue
            maps, table = found
            conv.inputs = [maps, conv.inputs[1]]
            sampler.op = AT_OP
            sampler.inputs.append(constant(f"{sampler.name}/position", table))
            rewrites += 1
        return rewrites


def samples_of(sampler: gs.Node) -> int:
    """How many samples a sampling takes; 0 where its shape is not known."""
    shape = sampler.outputs[0].shape or [0]
    return math.prod(shape) if all(isinstance(side, int) for side in shape) else 0


def convolution_of(sampler: gs.Node) -> gs.Node | None:
    """The convolution of 18 maps in two groups that makes the offsets of this sampling alone."""
    conv = _only_maker(sampler.inputs[1], "Conv")
    if conv is None or not isinstance(conv.inputs[1], gs.Constant):
        return None
    attrs = conv.attrs
    plain = (
        list(conv.inputs[1].shape[1:]) == [MAPS, 3, 3]
        and attrs.get("group", 1) == 2
        and list(attrs.get("pads", [0] * 4)) == [1] * 4
        and list(attrs.get("strides", [1, 1])) == [1, 1]
        and list(attrs.get("dilations", [1, 1])) == [1, 1]
    )
    return conv if plain else None


def _maps_and_table(conv: gs.Node) -> tuple[gs.Variable, np.ndarray] | None:
    """The 18 maps without positions, and what the convolution makes of those and of its bias."""
    add = _only_maker(conv.inputs[0], "Add")
    if add is None:
        return None
    fixed = [t for t in add.inputs if isinstance(t, gs.Constant)]
    maps = [t for t in add.inputs if isinstance(t, gs.Variable)]
    if len(fixed) != 1 or len(maps) != 1:
        return None
    positions = fixed[0].values
    if positions.ndim != 4 or positions.shape[:2] != (1, 2 * MAPS):
        return None
    bias = conv.inputs[2].values if len(conv.inputs) > 2 else None
    table = position_table(conv.inputs[1].values, bias, positions[0])
    return None if table is None else (maps[0], table)


def _only_maker(tensor: gs.Tensor, op: str) -> gs.Node | None:
    maker = tensor.inputs[0] if tensor.inputs else None
    return maker if maker is not None and maker.op == op and len(tensor.outputs) == 1 else None
