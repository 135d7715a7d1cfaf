"""What each node of an ONNX graph costs: multiply-adds and bytes, from inferred shapes.

Counted are convolutions (deformable ones as a plain one of the same shape, without the four
products of each bilinear sample), matrix products and attention. Resizes, norms and activations
count nothing. The rules are those of `degmix_training.cost`, which counts a PyTorch network.
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
from degmix_edge.passes._base import to_graph


@dataclass(frozen=True)
class NodeCost:
    """One node.

    Attributes:
        macs: Multiply-adds.
        weight_bytes: Of its constant inputs.
        read_bytes, write_bytes: Of its variable inputs and its outputs.
    """

    node: str
    op: str
    macs: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int


def costs(model: onnx.ModelProto | gs.Graph) -> list[NodeCost]:
    """Every node's cost, in graph order.

    Raises:
        GraphError: A counted node's shape is not known; names the node.
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
    """Of all nodes."""
    return sum(cost.macs for cost in found)


def by_part(found: Iterable[NodeCost]) -> dict[str, int]:
    """MACs by the first part of the module path: `backbone`, `mixers`, `queries` ..."""
    parts: dict[str, int] = defaultdict(int)
    for cost in found:
        if cost.macs:
            parts[cost.node.split("/")[0].split(".")[0]] += cost.macs
    return dict(parts)


def _macs(node: gs.Node) -> int:
    count = _COUNTS.get(node.op)
    if count is None:
        return 0
    shapes = [node.outputs[0].shape, *(tensor.shape for tensor in node.inputs[:2])]
    for shape in shapes:
        if shape is None or not all(isinstance(side, int) for side in shape):
            raise GraphError(
                f"{node.name} ({node.op}): shape {shape} is not static; export with a static "
                f"height, width and batch"
            )
    return count(node)


def _convolution(node: gs.Node) -> int:
    """Outputs times inputs that a weight sees; weights are `(O, I / groups, kH, kW)`."""
    return int(prod(node.outputs[0].shape) * prod(node.inputs[1].shape[1:]))


def _transposed(node: gs.Node) -> int:
    """Every input element meets `(O / groups, kH, kW)` weights."""
    return int(prod(node.inputs[0].shape) * prod(node.inputs[1].shape[1:]))


def _matmul(node: gs.Node) -> int:
    return int(prod(node.outputs[0].shape) * node.inputs[0].shape[-1])


def _gemm(node: gs.Node) -> int:
    inner = node.inputs[0].shape[0 if node.attrs.get("transA") else 1]
    return int(prod(node.outputs[0].shape) * inner)


def _einsum(node: gs.Node) -> int:
    """Two operands, no ellipsis: the product of all letters' sides."""
    terms = node.attrs["equation"].replace(" ", "").split("->")[0].split(",")
    sides: dict[str, int] = {}
    for term, tensor in zip(terms, node.inputs, strict=True):
        sides.update(zip(term, tensor.shape, strict=True))
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
    """Bytes; 0 where the shape is not known."""
    if tensor.shape is None or not all(isinstance(side, int) for side in tensor.shape):
        return 0
    itemsize = np.dtype(tensor.dtype).itemsize if tensor.dtype is not None else 4
    return int(prod(tensor.shape)) * itemsize
