"""Read the spec of an ONNX file that another program exported, from its names and shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import tasks
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.files import sha256
from degmix_edge.network import NetworkSpec, Source, from_metadata
from degmix_edge.registry import unknown as registry_unknown

if TYPE_CHECKING:
    import onnx


def network_spec(
    model: onnx.ModelProto,
    path: Path,
    data: bytes | None = None,
    outputs: Mapping[str, str] | None = None,
) -> NetworkSpec:
    """Return the spec of an ONNX model, from its metadata or its outputs' names and shapes.

    Args:
        model: The model.
        path: Its file, or a name for a model that has no file.
        data: The bytes of a model that has no file.
        outputs: The task of each output that is not called after it.

    Raises:
        ConfigError: `outputs` names an output or a task that does not exist, or one task twice.
        GraphError: An output is not a known task, or inputs and outputs are not static images and
            logits.
    """
    own_spec = from_metadata({p.key: p.value for p in model.metadata_props}, str(path))
    if own_spec is not None:
        return own_spec
    known = tasks.names()
    shapes = {output.name: _shape(output) for output in model.graph.output}
    renamed = _checked_outputs(outputs or {}, list(shapes))
    unknown = [name for name in shapes if name not in known and name not in renamed]
    if unknown:
        raise GraphError(
            f"{path}: outputs {list(shapes)} are no known tasks (first unknown: {unknown[0]!r}). "
            f"Say which task each is (--map {unknown[0]}=TASK), of {', '.join(known)}"
        )
    images = [_shape(value) for value in model.graph.input]
    if len(images) != 1 or len(images[0]) != 4 or images[0][:2] != [1, 3] or 0 in images[0]:
        raise GraphError(
            f"{path}: inputs {images}, expected one static image [1, 3, height, width]"
        )
    specs = []
    for own, shape in shapes.items():
        name = renamed.get(own, own)
        if len(shape) != 4 or 0 in shape:
            raise GraphError(
                f"{path}: output {own!r} has shape {shape}, expected static logits NCHW"
            )
        task = tasks.find(name)
        numbered = () if task.num_channels else tuple(f"class {i}" for i in range(shape[1]))
        specs.append(task.spec(numbered))
    return NetworkSpec(
        model=path.stem,
        height=images[0][2],
        width=images[0][3],
        tasks=tuple(specs),
        outputs=renamed,
        source=Source(name=path.name, sha256=source_hash(path) if data is None else sha256(data)),
    )


def _checked_outputs(outputs: Mapping[str, str], have: Sequence[str]) -> dict[str, str]:
    """The tasks by output, once each output, each task, and each pair of them exists once."""
    for name, task in outputs.items():
        if name not in have:
            raise ConfigError(registry_unknown("output", name, have))
        tasks.find(task)  # an unknown one raises its own error
    found = [outputs.get(name, name) for name in have]
    twice = [task for task in found if found.count(task) > 1]
    if twice:
        both = [name for name in have if outputs.get(name, name) == twice[0]]
        raise ConfigError(f"task {twice[0]!r}: outputs {' and '.join(both)} are both called so")
    return {name: task for name, task in outputs.items() if name != task}


def rename_outputs(model: onnx.ModelProto, outputs: Mapping[str, str]) -> None:
    """Call each output of `model` after its task; another tensor of that name gets a new one."""
    names = {task: f"{task}.inner" for task in outputs.values()} | dict(outputs)
    for node in model.graph.node:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [names.get(tensor, tensor) for tensor in node.output]
    for values in (model.graph.output, model.graph.value_info, model.graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)


def source_hash(path: Path) -> str:
    """Return the SHA-256 of an ONNX file and, if its weights lie in other files, of these too."""
    import onnx

    digest = hashlib.sha256(path.read_bytes())
    outline = onnx.load(path, load_external_data=False)
    entries = (entry for weight in outline.graph.initializer for entry in weight.external_data)
    for name in sorted({entry.value for entry in entries if entry.key == "location"}):
        digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()


def _shape(value: Any) -> list[int]:
    """Return the dimensions, with 0 for one that is not static."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
