"""The cost of each node of an ONNX graph in multiply-adds and bytes, from inferred shapes.

Convolutions, matrix products and attention are counted. A deformable convolution counts like a
plain one of the same shape, without the four products of each bilinear sample. Resizes, norms and
activations count as zero. `degmix_training.cost` counts a PyTorch network by the same rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import to_graph


@dataclass(frozen=True)
class NodeCost:
    """The cost of one node.

    Attributes:
        node: Name of the node.
        op: Its operator.
        macs: Multiply-adds.
        weight_bytes: Size of its constant inputs.
        read_bytes, write_bytes: Size of its variable inputs, and size of its outputs.
    """

    node: str
    op: str
    macs: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int


def costs(model: onnx.ModelProto | gs.Graph) -> list[NodeCost]:
    """Return the cost of every node, in graph order.

    Raises:
        GraphError: The shape of a node that counts is not known.
    """
    graph = to_graph(model) if isinstance(model, onnx.ModelProto) else model
    return [
        NodeCost(
            node.name,
            node.op,
            _macs(node),
            sum(_size(t) for t in node.inputs if isinstance(t, gs.Constant)),
            sum(_size(t) for t in node.inputs if isinstance(t, gs.Variable) and t.name),
            sum(_size(t) for t in node.outputs),
        )
        for node in graph.nodes
    ]


def total_macs(found: Iterable[NodeCost]) -> int:
    """Return the sum of the multiply-adds of all nodes."""
    return sum(cost.macs for cost in found)


def by_part(found: Iterable[NodeCost]) -> dict[str, int]:
    """Return the MACs by the first part of the module path, such as `backbone` or `mixers`."""
    parts: dict[str, int] = defaultdict(int)
    for cost in found:
        if cost.macs:
            parts[cost.node.split("/")[0].split(".")[0]] += cost.macs
    return dict(parts)


def _macs(node: gs.Node) -> int:
    count = _COUNTS.get(node.op)
    if count is None:
        return 0
    factors = node.inputs if node.op == "Einsum" else node.inputs[:2]
    shapes = [node.outputs[0].shape, *(tensor.shape for tensor in factors)]
    for shape in shapes:
        if shape is None or not all(isinstance(side, int) for side in shape):
            raise GraphError(
                f"{node.name} ({node.op}): shape {shape} is not static; export with a static "
                f"height, width and batch"
            )
    return count(node)


def _convolution(node: gs.Node) -> int:
    """Multiply the number of outputs by the weights `(I / groups, kH, kW)` that each meets."""
    return int(prod(node.outputs[0].shape) * prod(node.inputs[1].shape[1:]))


def _transposed(node: gs.Node) -> int:
    """Multiply the number of inputs by the `(O / groups, kH, kW)` weights that each meets."""
    return int(prod(node.inputs[0].shape) * prod(node.inputs[1].shape[1:]))


def _matmul(node: gs.Node) -> int:
    return int(prod(node.outputs[0].shape) * node.inputs[0].shape[-1])


def _gemm(node: gs.Node) -> int:
    inner = node.inputs[0].shape[0 if node.attrs.get("transA") else 1]
    return int(prod(node.outputs[0].shape) * inner)


def _einsum(node: gs.Node) -> int:
    """Multiply the sides of all letters of an equation, and those that an ellipsis stands for."""
    terms = node.attrs["equation"].replace(" ", "").split("->")[0].split(",")
    sides: dict[str | int, int] = {}
    for term, tensor in zip(terms, node.inputs, strict=True):
        first, ellipsis, last = term.partition("...")
        others = len(tensor.shape) - len(first) - len(last)
        # Numbered from the last: dimensions of an ellipsis are broadcast.
        letters = [*first, *(range(-others, 0) if ellipsis else ()), *last]
        for letter, side in zip(letters, tensor.shape, strict=True):
            sides[letter] = max(sides.get(letter, 1), side)
    return prod(sides.values())


_COUNTS: dict[str, Callable[[gs.Node], int]] = {
    "Conv": _convolution,
    "DeformConv": _convolution,
    "ConvTranspose": _transposed,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}


def _size(tensor: gs.Variable | gs.Constant) -> int:
    """Return the bytes of a tensor, or 0 if its shape is not known."""
    if tensor.shape is None or not all(isinstance(side, int) for side in tensor.shape):
        return 0
    itemsize = np.dtype(tensor.dtype).itemsize if tensor.dtype is not None else 4
    return int(prod(tensor.shape)) * itemsize
