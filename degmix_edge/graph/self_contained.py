"""What an ONNX file of a bundle may not hold, found in its bytes without the `onnx` package.

A robot has ONNX Runtime only, which reads weights from other files when a tensor says so, and which
runs loops for as long as they last. Both are refused before a session is made.
"""

from __future__ import annotations

from degmix_edge.errors import GraphError
from degmix_edge.graph.protobuf import fields

MOST_DEPTH = 16
"""Graphs inside nodes of graphs; ours have none."""
ENDLESS = {"Loop", "Scan"}
"""Operators that repeat a graph; a network of one size needs none of them."""
_TRACES = (b"location", *(name.encode() for name in ENDLESS))
"""Text that is in the bytes of every node that is refused; other nodes need no walk."""

_MESSAGES = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""The fields of each message that hold messages, from onnx.proto3."""
_OP_TYPE, _NODE_NAME, _TENSOR_NAME = 4, 3, 8
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def check_self_contained(model: bytes, where: str) -> None:
    """Check that a serialized ONNX model reads nothing but itself, and that it ends.

    Args:
        model: The bytes of a `ModelProto`.
        where: The name of the file, for error messages.

    Raises:
        GraphError: The bytes are no ONNX model, a tensor lies in another file, or a node is a loop.
    """
    try:
        _check("model", memoryview(model), where, MOST_DEPTH)
    except (IndexError, ValueError):
        raise GraphError(f"{where}: not a readable ONNX model; copy it again, whole") from None


def _check(kind: str, data: memoryview, where: str, depth: int) -> None:
    if depth == 0:
        raise GraphError(f"{where}: graphs inside graphs, more than {MOST_DEPTH} deep")
    nested = _MESSAGES.get(kind, {})
    texts: dict[int, str] = {}
    if kind == "node" and not any(trace in bytes(data) for trace in _TRACES):
        return
    for number, value, _ in fields(data):
        if number in nested and isinstance(value, memoryview):
            _check(nested[number], value, where, depth - (nested[number] == "graph"))
        elif kind == "tensor" and number == _EXTERNAL_DATA:
            raise GraphError(
                f"{where}: a tensor lies in another file, expected all inside the model"
            )
        elif kind == "tensor" and number == _DATA_LOCATION and value:
            raise GraphError(
                f"{where}: a tensor lies in another file, expected all inside the model"
            )
        elif kind == "node" and number in (_OP_TYPE, _NODE_NAME) and isinstance(value, memoryview):
            texts[number] = bytes(value).decode()
    if texts.get(_OP_TYPE) in ENDLESS:
        raise GraphError(
            f"{where}: {texts[_OP_TYPE]} at node {texts.get(_NODE_NAME, '')!r}: it may never end; "
            "`degmix-edge build engine` refuses such a network"
        )
