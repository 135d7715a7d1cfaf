"""Float32 in place of the narrower floating-point types, without loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper

NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_TYPES = {"to", "dtype", "output_dtype", "stash_type", "softmax_precision"}
"""Attributes that hold the type of a node's output or of its arithmetic."""


def narrow_types(model: onnx.ModelProto) -> set[int]:
    """The types narrower than float32 in which a part of `model` computes."""
    kinds: set[int] = set()
    for graph in _graphs(model.graph):
        kinds |= {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        kinds |= {weight.data_type for weight in graph.initializer}
        for attribute in (a for node in graph.node for a in node.attribute):
            kinds |= {attribute.t.data_type, attribute.i if attribute.name in _TYPES else 0}
    return kinds & NARROW


def widen(model: onnx.ModelProto) -> None:
    """Make float16 and bfloat16 float32 in place: weights, constants, casts, inputs and outputs.

    Every value of the two types is a float32 too. The network no longer rounds to a narrower type
    between its nodes, so that its results come closer to those that it was trained for.
    """
    for graph in _graphs(model.graph):
        for weight in graph.initializer:
            _widen_tensor(weight)
        for sparse in graph.sparse_initializer:
            _widen_tensor(sparse.values)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in NARROW:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                _widen_attribute(attribute)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in _TYPES and attribute.i in NARROW:
        attribute.i = TensorProto.FLOAT
    for tensor in (attribute.t, attribute.sparse_tensor.values, *attribute.tensors):
        _widen_tensor(tensor)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in NARROW:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)
