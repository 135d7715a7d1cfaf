"""Decode every task inside the graph, so that float logits never leave the engine.

`tasks.decode` is the reference, in numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.network import NetworkSpec
from degmix_edge.passes._base import Pass
from degmix_edge.tasks import TaskSpec
from degmix_edge.tasks._base import EPSILON, logits_name


class DecodeTasks(Pass):
    """Output `semseg` (logits) becomes tensor `semseg_logits` and output `semseg` (classes).

    Logits that are smaller than the image are resized first, bilinear, half-pixel centres: argmax
    before a resize is another function.

    Args:
        spec: The network's tasks.
        raw_logits: Keep the logits as outputs too.
    """

    def __init__(self, spec: NetworkSpec, *, raw_logits: bool = False) -> None:
        self.spec, self.raw_logits = spec, raw_logits

    def run(self, graph: gs.Graph) -> int:
        made = {node.name for node in graph.nodes}
        pending = [t for t in graph.outputs if f"{t.name}/decoded" not in made]
        pending = [t for t in pending if not t.name.endswith("_logits")]
        tensors = graph.tensors()
        for logits in pending:
            # Recipes and checks look for logits by name: another tensor must not have it.
            if (other := tensors.get(logits_name(logits.name))) is not None:
                other.name = f"{other.name}.inner"
            self._decode(graph, logits, self.spec.task(logits.name))
        return len(pending)

    def _decode(self, graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> None:
        self._check(logits, task)
        size = [self.spec.height, self.spec.width]
        shape = [1, task.num_channels, *size]
        place = graph.outputs.index(logits)
        if list(logits.shape) != shape:
            logits.name = f"{task.name}_coarse"
            sizes = constant(f"{task.name}/size", shape, np.int64)
            logits = append(
                graph,
                "Resize",
                [logits, gs.Variable.empty(), gs.Variable.empty(), sizes],
                f"{task.name}/resized",
                np.float32,
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            )
        logits.name = logits_name(task.name)
        decoded = _DECODERS[task.decode](graph, logits, task.name)
        decoded.inputs[0].name = f"{task.name}/decoded"
        decoded.name = task.name
        decoded.shape = list(task.map_spec(*size).shape)
        graph.outputs[place] = decoded
        if self.raw_logits:
            logits.shape = shape
            graph.outputs.append(logits)

    def _check(self, logits: gs.Variable, task: TaskSpec) -> None:
        shape = list(logits.shape or [])
        if len(shape) != 4 or shape[1] != task.num_channels or not isinstance(shape[2], int):
            raise GraphError(
                f"output {task.name!r}: got shape {shape}, expected static logits "
                f"[1, {task.num_channels}, height, width]"
            )


def _argmax(graph: gs.Graph, logits: gs.Variable, task: str) -> gs.Variable:
    best = append(graph, "ArgMax", [logits], f"{task}/argmax", np.int64, axis=1, keepdims=0)
    return append(graph, "Cast", [best], f"{task}/class", np.uint8, to=2)


def _foreground(graph: gs.Graph, logits: gs.Variable, task: str) -> gs.Variable:
    # softmax over two channels is the sigmoid of their difference
    halves = [gs.Variable(f"{task}/{side}", np.float32) for side in ("background", "foreground")]
    split = {"axis": 1, "num_outputs": 2}
    graph.nodes.append(gs.Node("Split", f"{task}/split", split, [logits], halves))
    difference = append(graph, "Sub", halves[::-1], f"{task}/difference", np.float32)
    return _sigmoid(graph, difference, task)


def _sigmoid(graph: gs.Graph, logits: gs.Variable, task: str) -> gs.Variable:
    probability = append(graph, "Sigmoid", [logits], f"{task}/sigmoid", np.float32)
    return _squeeze(graph, probability, task)


def _clamp(graph: gs.Graph, logits: gs.Variable, task: str) -> gs.Variable:
    return _squeeze(graph, append(graph, "Relu", [logits], f"{task}/clamp", np.float32), task)


def _squeeze(graph: gs.Graph, tensor: gs.Variable, task: str) -> gs.Variable:
    axis = constant(f"{task}/axis", [1], np.int64)
    return append(graph, "Squeeze", [tensor, axis], f"{task}/squeeze", np.float32)


def _unit_vector(graph: gs.Graph, logits: gs.Variable, task: str) -> gs.Variable:
    axis = constant(f"{task}/axis", [1], np.int64)
    length = append(graph, "ReduceL2", [logits, axis], f"{task}/length", np.float32, keepdims=1)
    floor = constant(f"{task}/floor", EPSILON)
    length = append(graph, "Max", [length, floor], f"{task}/length_floor", np.float32)
    unit = append(graph, "Div", [logits, length], f"{task}/unit", np.float32)
    return append(graph, "Transpose", [unit], f"{task}/last", np.float32, perm=[0, 2, 3, 1])


_DECODERS: dict[str, Callable[[gs.Graph, gs.Variable, str], gs.Variable]] = {
    "argmax": _argmax,
    "foreground": _foreground,
    "sigmoid": _sigmoid,
    "clamp": _clamp,
    "unit_vector": _unit_vector,
}
