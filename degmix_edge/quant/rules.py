"""The rules that choose each weighted node's precision.

They follow TensorRT's practice for explicit quantization, with additions for dense prediction.
Layers that compute offsets stay float, because offsets are addresses. So do the first convolution,
which reads the image, and the last layer of a regression, whose output is the result itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.network import NetworkSpec
from degmix_edge.quant.recipe import CALIBRATED, Placed, Placement, Precision, Recipe
from degmix_edge.registry import unknown
from degmix_edge.tasks import DECODES, logits_name

WEIGHTED = ("Conv", "MatMul", "Gemm")
DEFORMABLE = {"DeformConv": (2, 4), "DegmixDeformSample": (1,), "DegmixDeformConv2d": (2, 4)}
"""Inputs that hold offsets and modulation, by operator."""
BEFORE_LAYERS = {"Cast", "Transpose", "Gather", "Sub", "Add", "Mul", "Div"}
"""What normalises an image, and puts its channels in another order."""


def choose(
    graph: gs.Graph,
    spec: NetworkSpec,
    precision: Precision,
    *,
    observer: str | None = None,
    keep_float: tuple[str, ...] = (),
) -> Recipe:
    """Return the default recipe for a decoded graph.

    Args:
        graph: The graph after all passes except quantization.
        spec: Its tasks.
        precision: Precision of the nodes that no rule keeps in fp32.
        observer: The observer's name, which the recipe records.
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
    halves = dict(_half_nodes(graph)) if precision == "fp8" else {}

    def placed(node: gs.Node, otherwise: Placed, reason: str) -> Placement:
        found: tuple[Placed, str] = (otherwise, reason)
        if node.name in floats:
            found = ("fp32", floats[node.name])
        elif node.name in halves:
            found = ("fp16", halves[node.name])
        return Placement(node=node.name, op=node.op, precision=found[0], reason=found[1])

    return Recipe(
        precision=precision,
        observer=observer,
        placements=tuple(placed(node, precision, "constant weights") for node in weighted)
        + tuple(placed(n, "int8_weights", "its other operands stay float") for n in stored),
    )


def is_weighted(node: gs.Node) -> bool:
    """Return whether `node` multiplies a variable by constant weights.

    A MatMul whose constant has more than two dimensions does not count.
    """
    if node.op not in WEIGHTED or not isinstance(node.inputs[0], gs.Variable):
        return False
    weight = node.inputs[1]
    return isinstance(weight, gs.Constant) and (node.op == "Conv" or len(weight.shape) == 2)


def is_quantizable(node: gs.Node) -> bool:
    """Return whether `node` has an INT8 form: it is weighted, or a deformable convolution.

    A bilinear sample is a convex combination of values, so it has their scale, and the products
    after the sampling are an INT8 convolution. Offsets and modulation stay float.
    """
    deformable = node.op == "DeformConv" and isinstance(node.inputs[1], gs.Constant)
    return is_weighted(node) or deformable


def stored_operand(node: gs.Node) -> int | None:
    """Return the index of a constant operand to store in INT8, or None.

    Such an operand belongs to a MatMul without an INT8 form, whose constant has more than two
    dimensions.
    """
    if node.op == "MatMul" and not is_weighted(node):
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and len(tensor.shape) > 2:
                return index
    return None


def _float_nodes(
    graph: gs.Graph, spec: NetworkSpec, precision: Precision
) -> Iterator[tuple[str, str]]:
    # A node with two reasons gets the last one.
    if precision in CALIBRATED:
        for node in graph.nodes:
            if node.op == "Conv" and is_weighted(node) and _is_grouped(node):
                yield node.name, "grouped: INT8 kernels are made for one group, or one a channel"
    for node in offset_branch(graph):
        yield node.name, "makes the offsets of a deformable convolution"
    for node in routing_branch(graph):
        yield node.name, "routes: decides which experts an image or a pixel gets, and how much"
    if precision in ("fp16", "bf16"):
        return
    for node in graph.nodes:
        if is_weighted(node) and _reads_image(node):
            yield node.name, "first layer: reads the image"
    tensors = graph.tensors()
    for task in spec.tasks:
        if DECODES[task.decode].is_regression:
            node = _last_weighted(tensors[logits_name(task.name)])
            if node is not None:
                yield node.name, f"last layer of {task.name}, a regression"


def _half_nodes(graph: gs.Graph) -> Iterator[tuple[str, str]]:
    """Yield what has no kernel in FP8, with the reason."""
    for node in graph.nodes:
        if node.op == "DeformConv" or node.attrs.get("group", 1) > 1:
            yield node.name, "FP8 kernels are made for products and convolutions of one group"


def offset_branch(graph: gs.Graph) -> list[gs.Node]:
    """Return the nodes whose results reach only inputs for offsets or modulation."""
    return _branch(
        node.inputs[index]
        for node in graph.nodes
        for index in DEFORMABLE.get(node.op, ())
        if index < len(node.inputs)
    )


def routing_branch(graph: gs.Graph) -> list[gs.Node]:
    """Return the nodes whose results reach only a choice of experts or a gate of the whole image.

    A choice is a TopK. A gate is one number, or one number per channel, that scales or shifts a
    map.
    """
    choices = [node.inputs[0] for node in graph.nodes if node.op == "TopK"]
    binary = [node for node in graph.nodes if node.op in ("Mul", "Add") and len(node.inputs) == 2]
    gates = [
        tensor
        for node in binary
        for tensor, other in (node.inputs, node.inputs[::-1])
        if isinstance(tensor, gs.Variable) and _is_gate(tensor) and not _is_gate(other)
    ]
    return _branch([*choices, *gates])


def _is_gate(tensor: gs.Tensor) -> bool:
    shape = tensor.shape
    return shape is not None and len(shape) == 4 and list(shape[2:]) == [1, 1]


def _branch(ends: Iterable[gs.Tensor]) -> list[gs.Node]:
    """Return the nodes whose results reach only the tensors `ends`."""
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
    """Return whether a convolution has several groups of several channels each."""
    return bool(node.attrs.get("group", 1) > 1 and node.inputs[1].shape[1] > 1)


def _reads_image(node: gs.Node) -> bool:
    """Return whether only element-wise nodes are between the graph's input and `node`."""
    tensor = node.inputs[0]
    while tensor.inputs:
        maker = tensor.inputs[0]
        # Exporters put a bias on either side of an addition.
        variables = [other for other in maker.inputs if isinstance(other, gs.Variable)]
        if maker.op not in BEFORE_LAYERS or len(variables) != 1:
            return False
        tensor = variables[0]
    return True


def _last_weighted(tensor: Any) -> gs.Node | None:
    """Return the nearest weighted node from which `tensor` is computed, or None."""
    visited: set[int] = set()
    frontier = [tensor]
    while frontier:
        for node in frontier.pop(0).inputs:
            if is_weighted(node):
                return node
            if id(node) not in visited:
                visited.add(id(node))
                frontier += [t for t in node.inputs if isinstance(t, gs.Variable)]
    return None
