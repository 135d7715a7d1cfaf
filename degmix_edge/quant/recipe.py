"""The precision recipe: each weighted node's precision, and why.

The rules are TensorRT's habits for explicit quantization plus what dense prediction needs: offsets
decide addresses, so nothing that makes them is quantized; the first convolution reads the image,
the last layer of a regression is the regression.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import onnx_graphsurgeon as gs

from degmix_edge.config import Settings
from degmix_edge.errors import GraphError
from degmix_edge.network import NetworkSpec
from degmix_edge.registry import unknown
from degmix_edge.tasks._base import logits_name

Precision = Literal["fp32", "fp16", "int8"]
Placed = Literal["fp32", "fp16", "int8", "int8_weights"]
"""`int8_weights`: weights are stored in INT8 and the arithmetic stays float."""
WEIGHTED = ("Conv", "MatMul", "Gemm")
REGRESSIONS = ("clamp", "unit_vector", "sigmoid")
DEFORMABLE = {"DeformConv": (2, 4), "DegmixDeformSample": (1,), "DegmixDeformConv2d": (2, 4)}
"""Inputs that hold offsets and modulation, by operator."""


class Placement(Settings):
    """One node's precision and its reason."""

    node: str
    op: str
    precision: Placed
    reason: str


class Recipe(Settings):
    """The precision of every node that could be quantized.

    Attributes:
        precision: What was asked for.
        observer: Entry of `degmix_calibration.observers` that chose the ranges; int8 only.
        placements: In graph order.
    """

    precision: Precision
    observer: str | None = None
    placements: tuple[Placement, ...] = ()

    def nodes(self, precision: Placed) -> set[str]:
        """Names of the nodes placed at `precision`."""
        return {place.node for place in self.placements if place.precision == precision}


def choose(
    graph: gs.Graph,
    spec: NetworkSpec,
    precision: Precision,
    *,
    observer: str | None = None,
    keep_float: tuple[str, ...] = (),
) -> Recipe:
    """The default recipe for a decoded graph.

    Args:
        graph: After all passes but the quantizing one.
        spec: Its tasks.
        precision: Of the nodes that no rule keeps in fp32.
        observer: Recorded in the recipe.
        keep_float: Names of nodes that the user keeps in fp32.

    Raises:
        GraphError: `keep_float` names a node that the graph does not have.
    """
    stored = [n for n in graph.nodes if precision == "int8" and stored_operand(n) is not None]
    weighted = [node for node in graph.nodes if is_quantizable(node)]
    have = [node.name for node in (*weighted, *stored)]
    for name in keep_float:
        if name not in have:
            raise GraphError(unknown("weighted node", name, have))
    if precision == "fp32":
        return Recipe(precision="fp32")
    floats = dict(_float_nodes(graph, spec, precision))
    floats.update(dict.fromkeys(keep_float, "asked for"))
    return Recipe(
        precision=precision,
        observer=observer,
        placements=tuple(
            Placement(
                node=node.name,
                op=node.op,
                precision="fp32" if node.name in floats else precision,
                reason=floats.get(node.name, "constant weights"),
            )
            for node in weighted
        )
        + tuple(
            Placement(
                node=node.name,
                op=node.op,
                precision="fp32" if node.name in floats else "int8_weights",
                reason=floats.get(node.name, "its other operands stay float"),
            )
            for node in stored
        ),
    )


def is_weighted(node: gs.Node) -> bool:
    """Whether `node` multiplies a variable by constant weights; a stack of matrices is none."""
    if node.op not in WEIGHTED or not isinstance(node.inputs[0], gs.Variable):
        return False
    weight = node.inputs[1]
    return isinstance(weight, gs.Constant) and (node.op == "Conv" or len(weight.shape) == 2)


def is_quantizable(node: gs.Node) -> bool:
    """Whether `node` has an INT8 form: `is_weighted`, or a deformable convolution.

    A bilinear sample is a convex combination: it keeps the scale of what it samples, so the
    products behind the sampling are an INT8 convolution. Offsets and modulation stay float.
    """
    deformable = node.op == "DeformConv" and isinstance(node.inputs[1], gs.Constant)
    return is_weighted(node) or deformable


def stored_operand(node: gs.Node) -> int | None:
    """Index of a constant operand worth storing in INT8, of a node that has no INT8 form.

    A stack of matrices meets a matrix of the data.
    """
    if node.op == "MatMul" and not is_weighted(node):
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and len(tensor.shape) > 2:
                return index
    return None


def _float_nodes(
    graph: gs.Graph, spec: NetworkSpec, precision: Precision
) -> Iterator[tuple[str, str]]:
    # A node with two reasons has the last one.
    if precision == "int8":
        for node in graph.nodes:
            if node.op == "Conv" and is_weighted(node) and _is_grouped(node):
                yield node.name, "grouped: INT8 kernels are made for one group, or one a channel"
    for node in offset_branch(graph):
        yield node.name, "makes the offsets of a deformable convolution"
    for node in routing_branch(graph):
        yield node.name, "routes: decides which experts an image or a pixel gets, and how much"
    if precision == "fp16":
        return
    for node in graph.nodes:
        if is_weighted(node) and _reads_image(node):
            yield node.name, "first layer: reads the image"
    tensors = graph.tensors()
    for task in spec.tasks:
        if task.decode in REGRESSIONS:
            node = _last_weighted(tensors[logits_name(task.name)])
            if node is not None:
                yield node.name, f"last layer of {task.name}, a regression"


def offset_branch(graph: gs.Graph) -> list[gs.Node]:
    """Nodes whose results reach nothing but an offset or modulation input."""
    return _branch(
        node.inputs[index]
        for node in graph.nodes
        for index in DEFORMABLE.get(node.op, ())
        if index < len(node.inputs)
    )


def routing_branch(graph: gs.Graph) -> list[gs.Node]:
    """Nodes whose results reach nothing but a choice of experts or a gate of the whole image.

    A choice is a TopK; a gate is a number, or one a channel, that meets a map.
    """
    choices = [node.inputs[0] for node in graph.nodes if node.op == "TopK"]
    met = [node for node in graph.nodes if node.op in ("Mul", "Add") and len(node.inputs) == 2]
    gates = [
        tensor
        for node in met
        for tensor, other in (node.inputs, node.inputs[::-1])
        if isinstance(tensor, gs.Variable) and _is_gate(tensor) and not _is_gate(other)
    ]
    return _branch([*choices, *gates])


def _is_gate(tensor: gs.Tensor) -> bool:
    shape = tensor.shape
    return shape is not None and len(shape) == 4 and list(shape[2:]) == [1, 1]


def _branch(ends: Iterable[gs.Tensor]) -> list[gs.Node]:
    """Nodes whose results reach nothing but `ends`."""
    branch: dict[int, gs.Node] = {}
    frontier = list(ends)
    reached = {id(tensor) for tensor in frontier}
    while frontier:
        for node in frontier.pop().inputs:
            read_by = [reader for out in node.outputs for reader in out.outputs]
            inside = all(id(reader) in branch for reader in read_by)
            if inside or any(id(out) in reached for out in node.outputs):
                branch[id(node)] = node
                frontier += [tensor for tensor in node.inputs if tensor.inputs]
    return list(branch.values())


def _is_grouped(node: gs.Node) -> bool:
    """In groups of several channels."""
    return bool(node.attrs.get("group", 1) > 1 and node.inputs[1].shape[1] > 1)


def _reads_image(node: gs.Node) -> bool:
    """Whether only element-wise nodes lie between the graph's input and `node`."""
    tensor = node.inputs[0]
    while tensor.inputs:
        maker = tensor.inputs[0]
        if maker.op not in ("Transpose", "Cast", "Sub", "Mul", "Div", "Add"):
            return False
        tensor = maker.inputs[0]
    return True


def _last_weighted(tensor: Any) -> gs.Node | None:
    """The nearest weighted node behind `tensor`."""
    seen: set[int] = set()
    frontier = [tensor]
    while frontier:
        for node in frontier.pop(0).inputs:
            if is_weighted(node):
                return node
            if id(node) not in seen:
                seen.add(id(node))
                frontier += [t for t in node.inputs if isinstance(t, gs.Variable)]
    return None
