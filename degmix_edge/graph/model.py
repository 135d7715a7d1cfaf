"""Read an ONNX graph, rewrite it with graph-surgeon and write it."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from degmix_edge.errors import GraphError

IR_VERSION = 10
# graph-surgeon prints coloured notes to stdout, which is reserved for results such as JSON.
G_LOGGER.severity = G_LOGGER.ERROR


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        GraphError: The file is missing or truncated, or is not ONNX.
    """
    try:
        if path.exists() and not path.is_file():
            raise GraphError(f"{path}: is no regular file, expected an .onnx file")
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise GraphError(f"{path}: no such file") from None
    except GraphError:
        raise
    except Exception as error:  # protobuf's DecodeError and checker's errors share no base
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraphError(
            f"{path}: not a readable ONNX model ({reason}); {path.stat().st_size} bytes. "
            f"Was the copy or download cut short?"
        ) from None
    if not model.graph.node:
        raise GraphError(f"{path}: an ONNX model without nodes")
    return model


def to_graph(model: onnx.ModelProto) -> gs.Graph:
    """Return `model` as a graph-surgeon graph, with inferred shapes.

    Raises:
        GraphError: It has a type or a shape that no graph can have.
    """
    try:
        graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    except Exception as error:  # whatever the two libraries stumble over
        raise GraphError(
            f"an ONNX graph that cannot be read ({type(error).__name__}: {error})"
        ) from error
    name_apart(graph)
    return graph


def to_model(graph: gs.Graph, metadata: dict[str, str]) -> onnx.ModelProto:
    """Return `graph` as a checked ONNX model with inferred shapes and `metadata`."""
    model = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def name_apart(graph: gs.Graph) -> None:
    """Give every node and every tensor a name that no other one has.

    ONNX lets nodes have no name or share one, but recipes tell them apart by it. A pass may call a
    new tensor like one of the network's; graph-surgeon would then write one of the two only.
    """
    tensors = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
    nodes = dict[str, gs.Node]()
    for node in graph.nodes:
        for tensor in (*node.outputs, *node.inputs):
            if tensor.name and tensors.setdefault(tensor.name, tensor) is not tensor:
                tensor.name = _free(tensor.name, tensors)
                tensors[tensor.name] = tensor
        own = node.name or next((tensor.name for tensor in node.outputs if tensor.name), node.op)
        node.name = _free(own, nodes)
        nodes[node.name] = node


def _free(name: str, taken: Container[str]) -> str:
    numbered = (f"{name}.{number}" for number in itertools.count(1))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


def infer_shapes(graph: gs.Graph) -> None:
    """Give every tensor of `graph` the type and the shape that follow from its inputs."""
    inferred = onnx.shape_inference.infer_shapes(gs.export_onnx(graph, do_type_check=False))
    known = gs.import_onnx(inferred).tensors()
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable) and isinstance(known.get(name), gs.Variable):
            tensor.dtype = tensor.dtype or known[name].dtype
            tensor.shape = known[name].shape


def constant(name: str, values: Any, dtype: Any = np.float32) -> gs.Constant:
    """Return a constant tensor called `name`."""
    return gs.Constant(name, np.asarray(values, dtype=dtype))


def append(
    graph: gs.Graph, op: str, inputs: list[Any], name: str, dtype: Any, **attrs: Any
) -> gs.Variable:
    """Append a node called `name` and return its one output, which has the same name."""
    out = gs.Variable(name, dtype=np.dtype(dtype))
    graph.nodes.append(gs.Node(op=op, name=name, inputs=inputs, outputs=[out], attrs=attrs))
    return out


def import_domain(graph: gs.Graph, domain: str) -> None:
    """Allow operators of version 1 of `domain` in `graph`."""
    domains = list(graph.import_domains or [onnx.helper.make_opsetid("", graph.opset)])
    if domain not in {opset.domain for opset in domains}:
        domains.append(onnx.helper.make_opsetid(domain, 1))
    graph.import_domains = domains


def replace_uses(old: gs.Variable, new: gs.Variable, *, keep: Iterable[gs.Node] = ()) -> None:
    """Make every consumer of `old` read `new`, except the nodes in `keep`."""
    unchanged = {id(node) for node in keep}
    for node in list(old.outputs):
        if id(node) not in unchanged:
            node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
