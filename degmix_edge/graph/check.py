"""Check that a graph is static and has only operators that every builder knows."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from degmix_edge.errors import GraphError
from degmix_edge.ops import DOMAINS as OUR_DOMAINS

DOMAINS = {"", "ai.onnx", *OUR_DOMAINS}
DYNAMIC = {
    "Loop": "unroll it: the number of iterations is known for one size",
    "If": "export with the branch that inference takes",
    "Scan": "unroll it",
    "NonZero": "its output's shape depends on the data; use a mask",
    "Unique": "its output's shape depends on the data",
    "Compress": "its output's shape depends on the data; use a mask",
    "NonMaxSuppression": "do it in the code that runs after the network",
}
"""Operators of standard ONNX that make shapes unknown, and what to do instead."""
SHOWN = 8


def check_graph(model: onnx.ModelProto) -> None:
    """Check the inputs and the operators of a graph.

    Raises:
        GraphError: An input is dynamic, or operators are unsupported. The message lists them with
            their nodes, whose names are module paths, and says what to do.
    """
    for value in model.graph.input:
        shape = [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
        if not all(isinstance(side, int) for side in shape):
            raise GraphError(
                f"input {value.name!r} has the dynamic shape {shape}, expected static sides as in "
                f"[1, 3, 448, 672]: an engine is made for one size. Export again without dynamic "
                f"axes, once for each size"
            )
    _complain(model.graph.node)


def check_domains(model: onnx.ModelProto) -> None:
    """Check that every operator is of standard ONNX or ours.

    Raises:
        GraphError: Some are not. The message also has what else `check_graph` finds.
    """
    if any(node.domain not in DOMAINS for node in model.graph.node):
        _complain(model.graph.node)


def _complain(nodes: Iterable[onnx.NodeProto]) -> None:
    problems = [problem for node in nodes if (problem := _problem(node))]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise GraphError(f"unsupported operators: {'; '.join(problems[:SHOWN])}{more}")


def _problem(node: onnx.NodeProto) -> str:
    where = f"node {node.name!r}"
    if node.domain not in DOMAINS:
        return (
            f"{node.domain}::{node.op_type} at {where}: not of standard ONNX; write that module "
            f"with standard operators, or export it as the standard DeformConv if it is one"
        )
    if node.op_type in DYNAMIC:
        return f"{node.op_type} at {where}: {DYNAMIC[node.op_type]}"
    if node.domain not in OUR_DOMAINS and not onnx.defs.has(node.op_type):
        return f"{node.op_type} at {where}: no operator of ONNX {onnx.__version__}"
    return ""
