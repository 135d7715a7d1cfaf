"""Decode every task inside the graph, so that float logits never leave the engine.

`tasks.decode` is the reference, in numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.network import NetworkSpec
from degmix_edge.passes._base import Pass
from degmix_edge.tasks import TaskSpec, logits_name
from degmix_edge.tasks._decodes import EPSILON


class DecodeTasks(Pass):
    """Output `semseg` (logits) becomes tensor `semseg_logits` and output `semseg` (classes).

    Logits that are smaller than the map are resized first, bilinear, half-pixel centres: argmax
    before a resize is another function. Labels take the nearest pixel. Raw outputs stay.

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
        pending = [t for t in pending if not self.spec.task(t.name).is_raw]
        tensors = graph.tensors()
        for logits in pending:
            # Recipes and checks look for logits by name: another tensor must not have it.
            if (other := tensors.get(logits_name(logits.name))) is not None:
                other.name = f"{other.name}.inner"
            self._decode(graph, logits, self.spec.task(logits.name))
        return len(pending)

    def _decode(self, graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> None:
        self._check(logits, task)
        want = task.map_spec(self.spec.height, self.spec.width, batch=logits.shape[0])
        shape = [*logits.shape[:2], *want.shape[1:3]]
        place = graph.outputs.index(logits)
        if list(logits.shape) != shape:
            logits = _resized(graph, logits, shape, task)
        logits.name = logits_name(task.name)
        decoded = _DECODERS[task.decode](graph, logits, task)
        decoded.inputs[0].name = f"{task.name}/decoded"
        decoded.name = task.name
        decoded.shape = list(want.shape)
        graph.outputs[place] = decoded
        if self.raw_logits and task.has_logits:
            logits.shape = shape
            graph.outputs.append(logits)

    def _check(self, logits: gs.Variable, task: TaskSpec) -> None:
        shape, channels = list(logits.shape or []), task.logits_channels
        if len(shape) != 4 or shape[1] != channels or not isinstance(shape[2], int):
            raise GraphError(
                f"output {task.name!r}: got shape {shape}, expected static logits "
                f"[N, {channels}, height, width]"
            )


def _resized(graph: gs.Graph, logits: gs.Variable, shape: list[int], task: TaskSpec) -> gs.Variable:
    name = task.name
    logits.name = f"{name}_coarse"
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if task.decode == "labels":  # an argmax comes after the resize
        how |= {"mode": "nearest", "nearest_mode": "round_prefer_floor"}
        logits = append(graph, "Cast", [logits], f"{name}/numbers", np.float32, to=1)
    sizes = constant(f"{name}/size", shape, np.int64)
    inputs = [logits, gs.Variable.empty(), gs.Variable.empty(), sizes]
    return append(graph, "Resize", inputs, f"{name}/resized", np.float32, **how)


def _argmax(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    name = f"{task.name}/argmax"
    return _classes(
        graph, append(graph, "ArgMax", [logits], name, np.int64, axis=1, keepdims=0), task
    )


def _labels(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    return _classes(graph, _squeeze(graph, logits, task), task)


def _classes(graph: gs.Graph, labels: gs.Variable, task: TaskSpec) -> gs.Variable:
    dtype = np.dtype(task.map_spec(1, 1).dtype)
    to = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return append(graph, "Cast", [labels], f"{task.name}/class", dtype, to=to)


def _foreground(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    # softmax over two channels is the sigmoid of their difference
    name = task.name
    halves = [gs.Variable(f"{name}/{side}", np.float32) for side in ("background", "foreground")]
    split = {"axis": 1, "num_outputs": 2}
    graph.nodes.append(gs.Node("Split", f"{name}/split", split, [logits], halves))
    difference = append(graph, "Sub", halves[::-1], f"{name}/difference", np.float32)
    return _sigmoid(graph, difference, task)


def _sigmoid(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    probability = append(graph, "Sigmoid", [logits], f"{task.name}/sigmoid", np.float32)
    return _values(graph, probability, task)


def _identity(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    return _values(graph, logits, task)


def _clamp(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    return _values(graph, append(graph, "Relu", [logits], f"{task.name}/clamp", np.float32), task)


def _reciprocal(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    name = task.name
    floor = constant(f"{name}/floor", EPSILON)
    positive = append(graph, "Max", [logits, floor], f"{name}/positive", np.float32)
    inverse = append(graph, "Reciprocal", [positive], f"{name}/reciprocal", np.float32)
    return _values(graph, inverse, task)


def _exp(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    return _values(graph, append(graph, "Exp", [logits], f"{task.name}/exp", np.float32), task)


def _standard_deviation(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    half = constant(f"{task.name}/half", 0.5)
    return _exp(
        graph, append(graph, "Mul", [logits, half], f"{task.name}/halved", np.float32), task
    )


def _unit_vector(graph: gs.Graph, logits: gs.Variable, task: TaskSpec) -> gs.Variable:
    name = task.name
    axis = constant(f"{name}/axis", [1], np.int64)
    length = append(graph, "ReduceL2", [logits, axis], f"{name}/length", np.float32, keepdims=1)
    floor = constant(f"{name}/floor", EPSILON)
    length = append(graph, "Max", [length, floor], f"{name}/length_floor", np.float32)
    return _values(graph, append(graph, "Div", [logits, length], f"{name}/unit", np.float32), task)


def _values(graph: gs.Graph, values: gs.Variable, task: TaskSpec) -> gs.Variable:
    """Times the task's scale, then channels last, or none where there is one number a pixel."""
    name = task.name
    if task.scale != 1:
        scale = constant(f"{name}/scale", task.scale)
        values = append(graph, "Mul", [values, scale], f"{name}/scaled", np.float32)
    if not task.components:
        return _squeeze(graph, values, task)
    return append(graph, "Transpose", [values], f"{name}/last", np.float32, perm=[0, 2, 3, 1])


def _squeeze(graph: gs.Graph, tensor: gs.Variable, task: TaskSpec) -> gs.Variable:
    axis = constant(f"{task.name}/axis", [1], np.int64)
    return append(graph, "Squeeze", [tensor, axis], f"{task.name}/squeeze", tensor.dtype)


_DECODERS: dict[str, Callable[[gs.Graph, gs.Variable, TaskSpec], gs.Variable]] = {
    "argmax": _argmax,
    "labels": _labels,
    "foreground": _foreground,
    "sigmoid": _sigmoid,
    "identity": _identity,
    "clamp": _clamp,
    "reciprocal": _reciprocal,
    "exp": _exp,
    "standard_deviation": _standard_deviation,
    "unit_vector": _unit_vector,
}
