"""Give each part of an input that holds several, as RGB and depth in four channels, its own one."""

from __future__ import annotations

import onnx
from onnx import ValueInfoProto

from degmix_edge.errors import ConfigError
from degmix_edge.graph.spec_file import SpecFile
from degmix_edge.network import part_name


def split_inputs(
    model: onnx.ModelProto, said: SpecFile, where: str
) -> tuple[onnx.ModelProto, SpecFile]:
    """Return a model whose inputs are those that were described, and `said` with their names.

    Args:
        model: The model, which is changed.
        said: Inputs with `channels` are parts of their tensor.
        where: Name of the file, for error messages.

    Raises:
        ConfigError: The parts of a tensor are not all of its channels.
    """
    names: dict[str, str] = {}
    for value in list(model.graph.input):
        parts = said.parts_of(value.name)
        if any(parts.values()):
            names |= _split(model.graph, value, parts, where)
    if not names:
        return model, said
    entries = {
        name: entry.model_copy(update={"tensor": names.get(name, entry.tensor), "channels": None})
        for name, entry in said.inputs.items()
    }
    image = {"tensor": names.get("", said.input.tensor), "channels": None}
    update = {"inputs": entries, "input": said.input.model_copy(update=image)}
    return model, said.model_copy(update=update)


def _split(
    graph: onnx.GraphProto,
    value: ValueInfoProto,
    parts: dict[str, tuple[int, int] | None],
    where: str,
) -> dict[str, str]:
    """Replace an input by its parts, and return the name of each."""
    dims = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
    last = max(end for _, end in filter(None, parts.values()))
    axis = next((axis for axis in (1, 3) if len(dims) == 4 and dims[axis] == last), None)
    bounds = sorted(channels or (0, 0) for channels in parts.values())
    edges = [0, *(end for _, end in bounds)]
    if axis is None or [first for first, _ in bounds] != edges[:-1]:
        listed = ", ".join(f"{name or 'the image'}: {channels}" for name, channels in parts.items())
        raise ConfigError(
            f"{where}: input {value.name!r} {dims} is described as {listed}; together these have "
            "to be all of its channels, each once (channels: [first, the one behind the last])"
        )
    names = {name: part_name(value.name, channels) for name, channels in parts.items()}
    for name, channels in parts.items():
        part = ValueInfoProto()
        part.CopyFrom(value)
        part.name = names[name]
        first, end = channels or (0, 0)
        part.type.tensor_type.shape.dim[axis].dim_value = end - first
        graph.input.append(part)
    graph.input.remove(value)
    ordered = [part_name(value.name, channels) for channels in bounds]
    node = onnx.helper.make_node("Concat", ordered, [value.name], f"{value.name}/whole", axis=axis)
    graph.node.insert(0, node)
    return names
