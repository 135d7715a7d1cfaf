"""Expand the offsets of DeMT's deformable sampling inside the sampling, and take the tail in.

The offsets are a grouped 3x3 convolution of 18 maps, to which a constant position is added first.
Where that constant becomes an affine function of y or x (see `ops.deform_sample_fused`), the node
`DegmixDeformSampleFused` takes the 18 maps, and the two offset maps a channel are never stored.
Where a 1x1 convolution, a GELU, a batch norm and the residual follow, `DegmixDeformMix` takes
them too. The kernels are FP16: this is a pass for engines with FP16 layers, on a graph whose floats
are all FP32. It runs after `lower_deform_sample`.

In an INT8 engine the product is INT8, so only the sampling is fused, unless the recipe keeps the
product in FP16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import constant
from degmix_edge.ops import DOMAIN
from degmix_edge.ops.deform_sample import OP as SAMPLE
from degmix_edge.ops.deform_sample_fused import (
    CHANNELS,
    MAPS,
    MIX_CHANNELS,
    MIX_OP,
    OP,
    pack,
    pack_expansion,
    position_table,
)
from degmix_edge.passes._base import Pass

WIDEST_MIX = 320
"""Channels of which 128 pixels fit the shared memory of a block on every card: 99 KB on most."""


class FuseDeformOffsets(Pass):
    """Fuses each sampling with its offset convolution and, where there is one, the mixer's tail.

    The fused node keeps the name of the last node that it replaces.
    """

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for sampler in [n for n in graph.nodes if n.op == SAMPLE]:
            expansion = expansion_of(sampler)
            if expansion is None or sampler.attrs["channels"] % CHANNELS:
                continue
            tail = _tail(sampler)
            last = sampler if tail is None else tail.add
            output = last.outputs[0]
            inputs = [sampler.inputs[0], expansion.maps]
            inputs += [
                constant(f"{last.name}/expansion", pack_expansion(expansion.weight)),
                constant(f"{last.name}/position", expansion.position),
            ]
            attrs = {"channels": sampler.attrs["channels"]}
            if tail is not None:
                inputs += tail.constants(last.name)
                attrs |= {"activation": "gelu", "residual": 1}
            attrs |= {"plugin_version": "1", "plugin_namespace": DOMAIN}
            op = OP if tail is None else MIX_OP
            last.outputs.clear()
            graph.nodes.append(gs.Node(op, last.name, attrs, inputs, [output], domain=DOMAIN))
            rewrites += 1
        return rewrites


@dataclass
class Expansion:
    """What makes the offsets of a sampling.

    Attributes:
        conv: The grouped convolution that gives the offsets.
        maps: Its 18 maps, without the positions that are added to them.
        weight: Its weight, `(2 C, 9, 3, 3)`.
        position: What it makes of the positions and its bias, as `ops` has tables, `(9, C, 4)`.
    """

    conv: gs.Node
    maps: gs.Variable
    weight: np.ndarray
    position: np.ndarray


def expansion_of(sampler: gs.Node) -> Expansion | None:
    """What makes the offsets, if it is a grouped convolution of positions and 18 maps."""
    conv = _only_maker(sampler.inputs[1], "Conv")
    if conv is None or not isinstance(conv.inputs[1], gs.Constant):
        return None
    weight = conv.inputs[1].values
    attrs = conv.attrs
    plain = (
        weight.shape[1:] == (MAPS, 3, 3)
        and attrs.get("group", 1) == 2
        and list(attrs.get("pads", [0] * 4)) == [1] * 4
        and list(attrs.get("strides", [1, 1])) == [1, 1]
        and list(attrs.get("dilations", [1, 1])) == [1, 1]
    )
    add = _only_maker(conv.inputs[0], "Add")
    if not plain or add is None:
        return None
    fixed = [t for t in add.inputs if isinstance(t, gs.Constant)]
    maps = [t for t in add.inputs if isinstance(t, gs.Variable)]
    if len(fixed) != 1 or len(maps) != 1:
        return None
    positions = fixed[0].values
    if positions.ndim != 4 or positions.shape[:2] != (1, 2 * MAPS):
        return None
    bias = conv.inputs[2].values if len(conv.inputs) > 2 else None
    table = position_table(weight, bias, positions[0])
    return None if table is None else Expansion(conv, maps[0], weight, table)


@dataclass
class _Tail:
    conv: gs.Node
    norm: gs.Node
    add: gs.Node

    def constants(self, name: str) -> list[gs.Constant]:
        weight = self.conv.inputs[1].values
        bias = self.conv.inputs[2].values if len(self.conv.inputs) > 2 else np.zeros(len(weight))
        scale, shift, mean, variance = (t.values.astype(np.float64) for t in self.norm.inputs[1:])
        factor = scale / np.sqrt(variance + self.norm.attrs.get("epsilon", 1e-5))
        values = {
            "product": pack(weight[:, :, 0, 0]),
            "bias": bias,
            "scale": factor,
            "shift": shift - mean * factor,
        }
        return [constant(f"{name}/{key}", value) for key, value in values.items()]


def _tail(sampler: gs.Node) -> _Tail | None:
    """The product, GELU, batch norm and residual behind a sampling, each read by the next alone."""
    channels = sampler.attrs["channels"]
    conv = _only_reader(sampler, "Conv")
    if conv is None or not isinstance(conv.inputs[1], gs.Constant):
        return None
    square = list(conv.inputs[1].shape) == [channels, channels, 1, 1]
    gelu = _only_reader(conv, "Gelu")
    norm = None if gelu is None else _only_reader(gelu, "BatchNormalization")
    add = None if norm is None else _only_reader(norm, "Add")
    if not square or gelu is None or norm is None or add is None:
        return None
    fits = channels % MIX_CHANNELS == 0 and channels <= WIDEST_MIX
    exact = gelu.attrs.get("approximate", "none") == "none"
    residual = any(tensor is sampler.inputs[0] for tensor in add.inputs)
    return _Tail(conv, norm, add) if fits and exact and residual else None


def _only_maker(tensor: gs.Tensor, op: str) -> gs.Node | None:
    maker = tensor.inputs[0] if tensor.inputs else None
    return maker if maker is not None and maker.op == op and len(tensor.outputs) == 1 else None


def _only_reader(node: gs.Node, op: str) -> gs.Node | None:
    readers = node.outputs[0].outputs
    return readers[0] if len(readers) == 1 and readers[0].op == op else None
