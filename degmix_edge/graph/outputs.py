"""Give each task of a foreign network an output of its own: NCHW logits called after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.graph.layout import TO_FIRST, TO_LAST
from degmix_edge.network import NetworkSpec

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from degmix_edge.tasks import TaskSpec


def select_outputs(model: onnx.ModelProto, spec: NetworkSpec) -> onnx.ModelProto:
    """Return `model` with one output a task, in the order of `spec`, and without the others.

    Channels last become channels first, `channels` are sliced, and `(N, H, W)` gets an axis of one
    channel. Raw outputs stay as they are.

    Args:
        model: The network, with the outputs' own names.
        spec: Its tasks say which output each is made of.
    """
    from degmix_edge.graph.model import append, to_graph, to_model

    graph = to_graph(model)
    by_name = {tensor.name: tensor for tensor in graph.outputs}
    made: list[gs.Variable] = []
    for task in spec.tasks:
        tensor = _selected(graph, by_name[task.output or task.name], task)
        if any(tensor is other for other in made) or not tensor.inputs:
            # A tensor has one name, and an input or a constant keeps its own.
            tensor = append(graph, "Identity", [tensor], f"{task.name}/alone", tensor.dtype)
        made.append(tensor)
    kept = {id(tensor) for tensor in made}
    for tensor in graph.tensors().values():
        if tensor.name in spec.task_names and id(tensor) not in kept:
            tensor.name = f"{tensor.name}.inner"  # a tensor inside has the task's name
    for task, tensor in zip(spec.tasks, made, strict=True):
        tensor.name = task.name
    graph.outputs = made
    return to_model(graph, {})


def _selected(graph: gs.Graph, tensor: gs.Variable, task: TaskSpec) -> gs.Variable:
    from degmix_edge.graph.model import append, constant

    if task.is_raw:
        return tensor
    name, dtype = task.name, tensor.dtype
    if len(tensor.shape) == 3:
        axis = constant(f"{name}/channel_axis", [1], np.int64)
        tensor = append(graph, "Unsqueeze", [tensor, axis], f"{name}/channel", dtype)
    elif task.channels_last and (first := _before_transpose(graph, tensor)) is not None:
        tensor = first
    elif task.channels_last:
        tensor = append(graph, "Transpose", [tensor], f"{name}/first", dtype, perm=TO_FIRST)
    if task.channels is not None:
        bounds = zip(("begin", "end", "slice_axis"), (*task.channels, 1), strict=True)
        ends = [constant(f"{name}/{word}", [value], np.int64) for word, value in bounds]
        tensor = append(graph, "Slice", [tensor, *ends], f"{name}/slice", dtype)
    return tensor


def _before_transpose(graph: gs.Graph, output: gs.Variable) -> gs.Variable | None:
    """The inner tensor that the last node only put into the order `(N, H, W, C)`."""
    maker = output.inputs[0] if output.inputs else None
    if maker is None or maker.op != "Transpose" or maker.attrs.get("perm") != TO_LAST:
        return None
    first: gs.Variable = maker.inputs[0]
    is_output = any(other is first for other in graph.outputs)
    return first if first.inputs and not is_output else None


def named_outputs(returned: Any) -> dict[str, Any]:
    """Return what a torch module returns by name.

    The names are the keys of a dictionary or the fields of a named tuple; the parts of another
    tuple or of a list are `output_0`, `output_1` and so on, and a single tensor is `output`.
    """
    if isinstance(returned, Mapping):
        return {str(name): value for name, value in returned.items()}
    if hasattr(returned, "_asdict"):
        return dict(returned._asdict())
    if isinstance(returned, tuple | list):
        return {f"output_{index}": value for index, value in enumerate(returned)}
    return {"output": returned}


def select_array(array: np.ndarray, task: TaskSpec) -> np.ndarray:
    """Return the logits `(N, C, h, w)` of a task from its output's array, as the graph selects."""
    if task.is_raw:
        return array
    if array.ndim == 3:
        array = array[:, None]
    elif task.channels_last:
        array = np.moveaxis(array, -1, 1)
    return array if task.channels is None else array[:, slice(*task.channels)]
