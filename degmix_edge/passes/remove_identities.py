"""Remove nodes that give back what they get: identities, empty pads, pairs of transposes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import replace_uses
from degmix_edge.passes._base import Pass

MOVING = ("tf_crop_and_resize", "tf_half_pixel_for_nn")
"""Modes of Resize that read other places than the pixels' own where no side changes."""


class RemoveIdentities(Pass):
    """Removes nodes that return their input, except those that make an output of the graph."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for node in list(graph.nodes):
            kept = _same(node)
            if kept is None or node.outputs[0] in graph.outputs:
                continue
            replace_uses(node.outputs[0], kept)
            node.outputs.clear()
            rewrites += 1
        return rewrites


def _same(node: gs.Node) -> gs.Tensor | None:
    """The tensor that the node's one output equals, where it is known to."""
    inverse = _before_inverse(node)
    if inverse is not None:
        return inverse
    rule = _RULES.get(node.op)
    if rule is None or not node.inputs or len(node.outputs) != 1:
        return None
    index = rule(node)
    return None if index is None else node.inputs[index]


def _before_inverse(node: gs.Node) -> gs.Tensor | None:
    """The input of a Transpose that this one takes back."""
    maker = node.inputs[0].inputs[0] if node.inputs and node.inputs[0].inputs else None
    if node.op != "Transpose" or maker is None or maker.op != "Transpose":
        return None
    first, second = (list(n.attrs.get("perm", ())) for n in (maker, node))
    if not first or [first[axis] for axis in second] != sorted(first):
        return None
    source: gs.Tensor = maker.inputs[0]
    return source


def _first(node: gs.Node) -> int:
    return 0


def _if_same_shape(node: gs.Node) -> int | None:
    before, after = node.inputs[0].shape, node.outputs[0].shape
    static = before is not None and all(isinstance(side, int) for side in before)
    return 0 if static and after is not None and list(before) == list(after) else None


def _resize(node: gs.Node) -> int | None:
    """To the same sides, by scales of one: 1.04 of 24 pixels is 24 pixels too, but others."""
    moved = node.attrs.get("coordinate_transformation_mode") in MOVING
    scales = node.inputs[-1 if len(node.inputs) < 3 else 2]  # opset 10 has no region before them
    given = bool(scales.name)
    whole = not given or (isinstance(scales, gs.Constant) and np.all(scales.values == 1))
    return _if_same_shape(node) if whole and not moved else None


def _dropout(node: gs.Node) -> int | None:
    """In training mode it is random."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None or not training.name:
        return 0
    return 0 if isinstance(training, gs.Constant) and not np.any(training.values) else None


def _pad(node: gs.Node) -> int | None:
    pads = node.inputs[1] if len(node.inputs) > 1 else None
    return 0 if isinstance(pads, gs.Constant) and not np.any(pads.values) else None


def _transpose(node: gs.Node) -> int | None:
    order = list(node.attrs.get("perm", ()))
    return 0 if order and order == sorted(order) else None


def _cast(node: gs.Node) -> int | None:
    before, after = node.inputs[0].dtype, node.outputs[0].dtype
    return 0 if before is not None and after is not None and before == after else None


def _slice(node: gs.Node) -> int | None:
    """The whole range, forwards."""
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    forwards = steps is None or (isinstance(steps, gs.Constant) and np.all(steps.values == 1))
    return _if_same_shape(node) if forwards else None


def _concat(node: gs.Node) -> int | None:
    return 0 if len(node.inputs) == 1 else None


def _neutral(value: float, *, both: bool) -> Callable[[gs.Node], int | None]:
    """An operand that is `value` everywhere, if the shape stays."""

    def rule(node: gs.Node) -> int | None:
        for index in (0, 1) if both else (0,):
            other = node.inputs[1 - index]
            if isinstance(other, gs.Constant) and np.all(other.values == value):
                before, after = node.inputs[index].shape, node.outputs[0].shape
                # A side that is not known may be one that the constant enlarges.
                known = before is not None and (None not in before or other.values.size == 1)
                if known and after is not None and list(before) == list(after):
                    return index
        return None

    return rule


_RULES: dict[str, Callable[[gs.Node], int | None]] = {
    "Identity": _first,
    "Dropout": _dropout,
    "Pad": _pad,
    "Reshape": _if_same_shape,
    "Expand": _if_same_shape,
    "Resize": _resize,
    "Transpose": _transpose,
    "Cast": _cast,
    "Slice": _slice,
    "Concat": _concat,
    "Add": _neutral(0.0, both=True),
    "Sub": _neutral(0.0, both=False),
    "Mul": _neutral(1.0, both=True),
    "Div": _neutral(1.0, both=False),
}
