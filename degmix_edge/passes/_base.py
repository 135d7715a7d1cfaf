"""What a pass is, and how a graph is read and written.

A pass checks its ground, rewrites, returns how many rewrites it made, and makes none when it is run
again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from degmix_edge.errors import GraphError

IR_VERSION = 10
# graph-surgeon prints notes on large constants and colours to stdout, where JSON goes.
G_LOGGER.severity = G_LOGGER.ERROR


class Pass(ABC):
    """One rewrite of a graph. Its name is its file's name."""

    @property
    def name(self) -> str:
        """The file's name."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def run(self, graph: gs.Graph) -> int:
        """Rewrite `graph` in place; return the number of rewrites.

        Raises:
            GraphError: The graph is not one this pass can work on.
        """


@dataclass(frozen=True)
class Outcome:
    """What one pass did."""

    name: str
    rewrites: int
    nodes: int
    seconds: float


def apply(graph: gs.Graph, passes: Iterable[Pass]) -> list[Outcome]:
    """Run `passes` in order; drop what nothing uses any more after each."""
    outcomes = []
    for step in passes:
        start = time.perf_counter()
        rewrites = step.run(graph)
        graph.cleanup().toposort()
        seconds = time.perf_counter() - start
        outcomes.append(Outcome(step.name, rewrites, len(graph.nodes), seconds))
    return outcomes


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        GraphError: It is missing, truncated, or no ONNX.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise GraphError(f"{path}: no such file") from None
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
    """The graph-surgeon view of `model`, with inferred shapes."""
    return gs.import_onnx(onnx.shape_inference.infer_shapes(model))


def to_model(graph: gs.Graph, metadata: dict[str, str]) -> onnx.ModelProto:
    """A checked ONNX model with shapes inferred and `metadata` written in."""
    model = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def constant(name: str, values: Any, dtype: Any = np.float32) -> gs.Constant:
    """A constant tensor."""
    return gs.Constant(name, np.asarray(values, dtype=dtype))


def append(
    graph: gs.Graph, op: str, inputs: list[Any], name: str, dtype: Any, **attrs: Any
) -> gs.Variable:
    """Append a node called `name` and return its one output, which has the same name."""
    out = gs.Variable(name, dtype=np.dtype(dtype))
    graph.nodes.append(gs.Node(op=op, name=name, inputs=inputs, outputs=[out], attrs=attrs))
    return out


def import_domain(graph: gs.Graph, domain: str) -> None:
    """Let `graph` hold operators of version 1 of `domain`."""
    have = list(graph.import_domains or [onnx.helper.make_opsetid("", graph.opset)])
    if domain not in {opset.domain for opset in have}:
        have.append(onnx.helper.make_opsetid(domain, 1))
    graph.import_domains = have


def replace_uses(old: gs.Variable, new: gs.Variable, *, keep: Iterable[gs.Node] = ()) -> None:
    """Make every consumer of `old` read `new`, but for the nodes in `keep`."""
    kept = {id(node) for node in keep}
    for node in list(old.outputs):
        if id(node) not in kept:
            node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
