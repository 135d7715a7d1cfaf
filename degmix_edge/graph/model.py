"""Read an ONNX graph, rewrite it with graph-surgeon and write it."""

from __future__ import annotations

from collections.abc import Iterable
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
        return gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    except Exception as error:  # whatever the two libraries stumble over
        raise GraphError(
            f"an ONNX graph that cannot be read ({type(error).__name__}: {error})"
        ) from error


def to_model(graph: gs.Graph, metadata: dict[str, str]) -> onnx.ModelProto:
    """Return `graph` as a checked ONNX model with inferred shapes and `metadata`."""
    model = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


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
