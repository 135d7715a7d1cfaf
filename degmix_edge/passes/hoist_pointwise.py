"""Run a 1x1 convolution's part of an enlarged map before the map is enlarged.

`Conv1x1(Concat(a, s * Resize(b)))` is `Conv1x1(a) + Resize(Conv1x1(b))` with the factors `s` in the
second one's weights: nearest and bilinear resizes are sums of pixels with weights that sum to one,
the same for each channel. Done where no more channels are resized than before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass


class HoistPointwise(Pass):
    """The convolution keeps its name for what is not hoisted; `<name>/hoisted` is the other."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for conv in [node for node in graph.nodes if node.op == "Conv" and _is_pointwise(node)]:
            maker = conv.inputs[0].inputs[0] if conv.inputs[0].inputs else None
            if maker is None or not _is_channel_concat(maker):
                continue
            outputs = conv.inputs[1].shape[0]
            parts = [_enlarged(tensor, outputs) for tensor in maker.inputs]
            if any(parts) and not all(parts):
                self._hoist(graph, conv, maker, parts)
                rewrites += 1
        return rewrites

    @staticmethod
    def _hoist(
        graph: gs.Graph, conv: gs.Node, concat: gs.Node, parts: list[tuple[gs.Node, object] | None]
    ) -> None:
        weight = conv.inputs[1].values
        dtype = weight.dtype
        widths = [tensor.shape[1] for tensor in concat.inputs]
        columns = np.split(weight, np.cumsum(widths)[:-1], axis=1)
        out = conv.outputs[0]
        stay = [t for t, part in zip(concat.inputs, parts, strict=True) if part is None]
        kept = [c for c, part in zip(columns, parts, strict=True) if part is None]
        conv.inputs[1] = constant(f"{conv.name}.weight/stays", np.concatenate(kept, axis=1), dtype)
        if len(stay) == 1:
            conv.inputs[0] = stay[0]
        else:
            joined = append(graph, "Concat", stay, f"{concat.name}/stays", dtype, axis=1)
            joined.shape = [out.shape[0], sum(t.shape[1] for t in stay), *out.shape[2:]]
            conv.inputs[0] = joined
        total = gs.Variable(f"{conv.name}/stays", out.dtype, out.shape)
        conv.outputs = [total]
        for index, (part, column) in enumerate(zip(parts, columns, strict=True)):
            if part is None:
                continue
            resize, scale = part
            name = f"{conv.name}/hoisted.{index}"
            small = resize.inputs[0]
            scaled = constant(f"{name}.weight", column * scale, dtype)
            made = append(graph, "Conv", [small, scaled], name, dtype, kernel_shape=[1, 1])
            made.shape = [out.shape[0], weight.shape[0], *small.shape[2:]]
            inputs = [made, *resize.inputs[1:]]
            if len(inputs) > 3 and inputs[3].name and "axes" not in resize.attrs:
                # Sizes have those of channels too.
                inputs[3] = constant(f"{name}/sizes", list(out.shape), np.int64)
            large = append(graph, "Resize", inputs, f"{name}/Resize", dtype, **resize.attrs)
            large.shape = out.shape
            added = append(graph, "Add", [total, large], f"{name}/Add", dtype)
            added.shape = out.shape
            total = added
        last = total.inputs[0]
        last.outputs = [out]


def _is_pointwise(conv: gs.Node) -> bool:
    weight, attrs = conv.inputs[1], conv.attrs
    return (
        isinstance(weight, gs.Constant)
        and list(weight.shape[2:]) == [1, 1]
        and attrs.get("group", 1) == 1
        and list(attrs.get("strides", [1, 1])) == [1, 1]
        and not any(attrs.get("pads", [0]))
    )


def _is_channel_concat(node: gs.Node) -> bool:
    """Whether a node joins maps by their channels for one reader."""
    out = node.outputs[0]
    shapes = [tensor.shape for tensor in (out, *node.inputs)]
    return (
        node.op == "Concat"
        and len(out.outputs) == 1
        and all(map(_is_static, shapes))
        and node.attrs["axis"] in (1, 1 - len(out.shape))
    )


def _is_static(shape: Sequence[object] | None) -> bool:
    return shape is not None and len(shape) == 4 and all(isinstance(side, int) for side in shape)


def _enlarged(tensor: gs.Tensor, outputs: int) -> tuple[gs.Node, object] | None:
    """The resize behind a tensor and the factors between, one a channel or 1; None: no hoist."""
    node, scale, whole = _only_maker(tensor), 1.0, tensor.shape
    if node is not None and node.op == "Mul":
        factors = [t for t in node.inputs if isinstance(t, gs.Constant)]
        inner = [t for t in node.inputs if isinstance(t, gs.Variable)]
        if len(factors) != 1 or not _a_channel(factors[0]):
            return None
        scale = factors[0].values.reshape(1, -1, 1, 1)
        node = _only_maker(inner[0])
    if node is None or node.op != "Resize" or node.attrs.get("mode") not in ("nearest", "linear"):
        return None
    if not _leaves_channels(node):
        return None
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if not _is_static(before) or not _is_static(after) or list(after) != list(whole):
        return None
    if list(before[:2]) != list(after[:2]) or before[1] < outputs:
        return None
    return (node, scale) if after[2] * after[3] > before[2] * before[3] else None


def _leaves_channels(resize: gs.Node) -> bool:
    """Whether a resize can take a map of another number of channels."""
    sizes, attrs = resize.inputs[3:], resize.attrs
    return (
        not (sizes and sizes[0].name and not isinstance(sizes[0], gs.Constant))
        and not {1, -3} & set(attrs.get("axes", ()))
        and attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
        and attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    )


def _only_maker(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs and len(tensor.outputs) == 1 else None


def _a_channel(factor: gs.Constant) -> bool:
    shape = list(factor.shape)
    row = shape[-2:] == [1, 1] and (len(shape) == 3 or shape[:-3] == [1])
    return row or factor.values.size == 1
