"""Rewrite deformable convolutions as GridSample and Conv, for builders without a kernel for them.

A sampling that `lower_deform_sample` has split off becomes a GridSample alone.

Dai et al. 2017, eq. 2 and 3, exactly: each tap of the kernel samples the input at its position plus
its offset, bilinear, zeros outside; the taps become channels of a 1x1 convolution. A tap of every
channel with its own offset group is the 1x1 case of DeMT. Coordinates are FP32. Where a convolution
with constant weights makes the offsets, it makes them in the sampler's unit and order.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.ops.deform_sample import AT_OP, OP, position_offsets
from degmix_edge.passes._base import Pass
from degmix_edge.passes.split_deform_positions import samples_of


class LowerDeformToGridsample(Pass):
    """`DeformConv` becomes GridSample and a Conv that has its name and its output.

    Args:
        least: The builder has our sampler, which stays where it takes so many samples or more.
    """

    def __init__(self, least: int | None = None) -> None:
        self.least = least

    def run(self, graph: gs.Graph) -> int:
        deformable = [node for node in graph.nodes if node.op == "DeformConv"]
        for node in deformable:
            _Lowering(graph, node).run()
        samplers = [node for node in graph.nodes if node.op in (OP, AT_OP)]
        if self.least is not None:
            samplers = [node for node in samplers if samples_of(node) < self.least]
        for node in samplers:
            _Sampler(graph, node).run()
        return len(deformable) + len(samplers)


class _Lowering:
    """One node: sizes, and nodes called `<name>/...`."""

    offset_index = 2

    def __init__(self, graph: gs.Graph, node: gs.Node) -> None:
        self.graph, self.node = graph, node
        self.value, self.offset = node.inputs[0], node.inputs[self.offset_index]
        self.n, self.c, self.h, self.w = _static(node, self.value)
        _, _, self.out_h, self.out_w = _static(node, self.offset)
        attrs = node.attrs
        self.kernel = self._kernel()
        self.taps = self.kernel[0] * self.kernel[1]
        self.groups = self._groups()
        self.stride = attrs.get("strides", [1, 1])
        self.pads = attrs.get("pads", [0] * 4)
        self.dilation = attrs.get("dilations", [1, 1])

    def _kernel(self) -> list[int]:
        return [int(side) for side in _weight_shape(self.node)[2:]]

    def _groups(self) -> int:
        return int(self.node.attrs.get("offset_group", 1))

    def run(self) -> None:
        """Replace the node."""
        samples = self._masked(self._sample(self._grid()))
        # N G C/G taps h w -> N C*taps h w: taps lie behind channels, as in the weights.
        shape = [self.n, self.c * self.taps, self.out_h, self.out_w]
        columns = self._reshape(samples, shape, "columns", np.float32)
        bias = self.node.inputs[3:4]
        inputs = [columns, self._columns_weight(), *([t for t in bias if not _empty(t)])]
        outputs = list(self.node.outputs)
        self.node.outputs.clear()
        attrs = {"kernel_shape": [1, 1], "group": int(self.node.attrs.get("group", 1))}
        self.graph.nodes.append(gs.Node("Conv", self.node.name, attrs, inputs, outputs))
        self.graph.nodes.remove(self.node)

    def _grid(self) -> gs.Variable:
        """`(N G, taps h, w, 2)`: x then y, -1 and 1 at the centres of the outermost pixels."""
        split = [self.n * self.groups, self.taps, 2, self.out_h * self.out_w]
        # A side of one pixel has no scale: `_sample` appends a zero, which outside is anyway.
        steps = 2 / (np.maximum([self.h, self.w], 2) - 1)
        places = (self._positions() * steps[:, None] - 1).reshape(-1, self.taps, 2, split[-1])
        is_folded = self._fold(steps)
        moved = self._reshape(self.offset, split, "offset", np.float32)
        if is_folded:
            places = places[:, :, ::-1]
        else:
            step = constant(f"{self._at}/step", steps.reshape(1, 1, 2, 1))
            moved = self._op("Mul", [moved, step], "scaled")
        moved = self._op("Add", [moved, constant(f"{self._at}/base", places)], "moved")
        grid = self._op("Transpose", [moved], "last", perm=[0, 1, 3, 2])
        if not is_folded:
            order = constant(f"{self._at}/order", [1, 0], np.int64)
            grid = self._op("Gather", [grid, order], "xy", axis=3)
        shape = [self.n * self.groups, self.taps * self.out_h, self.out_w, 2]
        return self._reshape(grid, shape, "grid", np.float32)

    def _fold(self, steps: np.ndarray) -> bool:
        """Let the convolution before the offsets make them in steps of the grid, x before y.

        Returns:
            Whether there is such a convolution, which nothing else reads.
        """
        conv = self.offset.inputs[0] if self.offset.inputs else None
        if conv is None or conv.op != "Conv" or self.offset in self.graph.outputs:
            return False
        weights = [tensor for tensor in conv.inputs[1:] if not _empty(tensor)]
        is_constant = all(isinstance(tensor, gs.Constant) for tensor in weights)
        if not is_constant or len(self.offset.outputs) != 1:
            return False
        pairs = weights[0].shape[0] // 2
        if pairs % int(conv.attrs.get("group", 1)):  # y and x are made of other channels
            return False
        for index, tensor in enumerate(weights, 1):
            by_pair = tensor.values.reshape(pairs, 2, *tensor.shape[1:])
            scaled = by_pair * steps.reshape(2, *[1] * (len(tensor.shape) - 1))
            turned = scaled[:, ::-1].reshape(tensor.shape).astype(np.float32)
            conv.inputs[index] = gs.Constant(f"{self._at}/{tensor.name}", turned)
        return True

    def _positions(self) -> np.ndarray:
        """`(..., 2, h w)` pixels: where each tap lies without an offset, y then x."""
        rows, columns = (
            np.arange(count) * stride - pad
            for count, stride, pad in zip(
                (self.out_h, self.out_w), self.stride, self.pads[:2], strict=True
            )
        )
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij")).reshape(1, 2, -1)
        taps = np.stack(np.meshgrid(*map(np.arange, self.kernel), indexing="ij"), -1)
        places: np.ndarray = grid + (taps.reshape(-1, 2) * np.array(self.dilation))[:, :, None]
        return places

    def _sample(self, grid: gs.Variable) -> gs.Variable:
        """`(N, G, C / G, taps, h w)`."""
        group = self.c // self.groups
        planes = [self.n * self.groups, group, self.h, self.w]
        value = self._reshape(self.value, planes, "planes", np.float32)
        if 1 in (self.h, self.w):
            pads = constant(f"{self._at}/pads", [0] * 6 + [self.h == 1, self.w == 1], np.int64)
            value = self._op("Pad", [value, pads], "padded")
        sampled = self._op(
            "GridSample",
            [value, grid],
            "sampled",
            mode="linear",
            padding_mode="zeros",
            align_corners=1,
        )
        split = [self.n, self.groups, group, self.taps, self.out_h * self.out_w]
        return self._reshape(sampled, split, "samples", np.float32)

    def _masked(self, samples: gs.Variable) -> gs.Variable:
        mask = self.node.inputs[4] if len(self.node.inputs) > 4 else None
        if mask is None or _empty(mask):
            return samples
        split = [self.n, self.groups, 1, self.taps, self.out_h * self.out_w]
        return self._op("Mul", [samples, self._reshape(mask, split, "mask", np.float32)], "masked")

    def _columns_weight(self) -> gs.Variable | gs.Constant:
        """`(O, C taps / groups, 1, 1)`; behind a DQ the stored values are reshaped."""
        weight = self.node.inputs[1]
        maker = weight.inputs[0] if weight.inputs else None
        shape = [_weight_shape(self.node)[0], -1, 1, 1]
        if maker is None:
            return gs.Constant(f"{self._at}/weight", weight.values.reshape(shape))
        stored = gs.Constant(f"{self._at}/int8", maker.inputs[0].values.reshape(shape))
        name = f"{self._at}/weight"
        inputs = [stored, *maker.inputs[1:]]
        return append(self.graph, maker.op, inputs, name, weight.dtype, **maker.attrs)

    @property
    def _at(self) -> str:
        return str(self.node.name)

    def _op(self, op: str, inputs: list[gs.Tensor], name: str, **attrs: object) -> gs.Variable:
        return append(self.graph, op, inputs, f"{self._at}/{name}", np.float32, **attrs)

    def _reshape(
        self, tensor: gs.Tensor, shape: list[int], name: str, dtype: type[np.generic]
    ) -> gs.Variable:
        sizes = constant(f"{self._at}/{name}_shape", shape, np.int64)
        reshaped = append(self.graph, "Reshape", [tensor, sizes], f"{self._at}/{name}", dtype)
        reshaped.shape = shape
        return reshaped


class _Sampler(_Lowering):
    """A sampling without its product: an offset a channel, and perhaps a table of positions."""

    offset_index = 1

    def _kernel(self) -> list[int]:
        return [1, 1]

    def _groups(self) -> int:
        return self.c

    def run(self) -> None:
        """Replace the node."""
        shape = [self.n, self.c, self.out_h, self.out_w]
        samples = self._reshape(self._sample(self._grid()), shape, "columns", np.float32)
        (output,) = self.node.outputs
        self.node.outputs.clear()
        self.graph.nodes.remove(self.node)
        for reader in list(output.outputs):
            reader.inputs = [samples if tensor is output else tensor for tensor in reader.inputs]
        self.graph.outputs = [samples if t is output else t for t in self.graph.outputs]

    def _positions(self) -> np.ndarray:
        places = super()._positions()
        if self.node.op == OP:
            return places
        table = self.node.inputs[2].values.astype(np.float64)
        offsets = position_offsets(table, self.out_h, self.out_w)
        own = np.tile(offsets.reshape(self.c, 2, -1), (self.n, 1, 1))
        moved: np.ndarray = places + own
        return moved


def _static(node: gs.Node, tensor: gs.Variable) -> list[int]:
    shape = list(tensor.shape or [])
    if len(shape) != 4 or not all(isinstance(side, int) for side in shape):
        raise GraphError(
            f"{node.name} ({node.op}): shape {shape} of {tensor.name!r} is not static NCHW; "
            f"export with a static height, width and batch"
        )
    return shape


def _weight_shape(node: gs.Node) -> list[int]:
    weight = node.inputs[1]
    stored = weight.inputs[0].inputs[0] if weight.inputs else weight
    if not isinstance(stored, gs.Constant):
        raise GraphError(f"{node.name} (DeformConv): its weights are no constant")
    return list(stored.shape)


def _empty(tensor: gs.Tensor) -> bool:
    return bool(tensor.is_empty())
