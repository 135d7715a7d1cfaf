"""Let an engine say how certain it is of its classes, which the decoded map no longer tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from degmix_edge.network import NetworkSpec
from degmix_edge.tasks import logits_name

STRIDE = 4
"""Of the pixels of a map, every fourth in both directions is looked at: a mean needs no more."""
OPSET = 18
"""From this opset on, reductions take their axes as an input."""
CONFIDENCE, ENTROPY = "_confidence", "_entropy"
"""Endings of the names of the two further outputs of a task."""


def add_certainty(model: bytes, spec: NetworkSpec) -> tuple[bytes, tuple[str, ...]]:
    """Return a model with two further outputs for each task of classes, and those tasks.

    `TASK_confidence` is the probability of the chosen class, and `TASK_entropy` the entropy of all
    classes in nats. Both are float32 `(N, H/4, W/4)`, of every fourth pixel. The other outputs stay
    as they are.

    Args:
        model: An ONNX file whose logits are called as `tasks.logits_name` says. A task without such
            a tensor is left out.
        spec: The network's tasks.
    """
    loaded = onnx.load_from_string(model)
    opsets = {one.domain: one.version for one in loaded.opset_import}
    known = {name for node in loaded.graph.node for name in node.output}
    tasks = tuple(
        task.name
        for task in spec.tasks
        if task.decode == "argmax" and task.num_channels > 1 and logits_name(task.name) in known
    )
    if not tasks or opsets.get("", 0) < OPSET:
        return model, ()
    for task in tasks:
        _append(loaded.graph, task)
    return loaded.SerializeToString(), tasks


def _append(graph: onnx.GraphProto, task: str) -> None:
    def constant(name: str, values: list[int]) -> str:
        full = f"{task}/certainty/{name}"
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), full))
        return full

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    inner = f"{task}/certainty"
    ends = [constant("start", [0, 0]), constant("end", [1 << 30, 1 << 30])]
    ends += [constant("sides", [2, 3]), constant("steps", [STRIDE, STRIDE])]
    channel = constant("channel", [1])
    some = node("Slice", [logits_name(task), *ends], f"{inner}/some")
    some = node("Cast", [some], f"{inner}/float", to=onnx.TensorProto.FLOAT)
    logs = node("LogSoftmax", [some], f"{inner}/logs", axis=1)
    shares = node("Exp", [logs], f"{inner}/shares")
    terms = node("Mul", [shares, logs], f"{inner}/terms")
    total = node("ReduceSum", [terms, channel], f"{inner}/total", keepdims=0)
    node("ReduceMax", [shares, channel], f"{task}{CONFIDENCE}", keepdims=0)
    node("Neg", [total], f"{task}{ENTROPY}")
    for ending in (CONFIDENCE, ENTROPY):
        shape = [None, None, None]
        name = f"{task}{ending}"
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
