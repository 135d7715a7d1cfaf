"""Operators of our own, one file each: a slow reference in numpy, and an ONNX function body.

The body is what the operator means in standard ONNX. A graph that carries it runs in ONNX Runtime
without the plugin: what TensorRT gets is what is tested.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from degmix_edge import registry

if TYPE_CHECKING:
    import onnx

DOMAIN = "degmix"
INT8_DOMAIN = "degmix.int8"
"""Of a node that samples INT8: the plugin is the same one, only the function body differs."""


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the bodies of the operators of ours that it uses."""
    used = {(node.domain, node.op_type) for node in model.graph.node}
    del model.functions[:]
    model.functions.extend(f for f in functions() if (f.domain, f.name) in used)
    return model


def functions() -> Iterable[onnx.FunctionProto]:
    """The bodies of all operators."""
    for name in registry.names(__name__):
        yield from registry.find(__name__, name).functions()
