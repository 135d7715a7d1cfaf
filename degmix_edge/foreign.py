"""ONNX files that somebody else exported: what they promise, read off names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import tasks
from degmix_edge.bundle import sha256
from degmix_edge.errors import GraphError
from degmix_edge.network import NetworkSpec, Source, from_metadata

if TYPE_CHECKING:
    import onnx


def network_spec(model: onnx.ModelProto, path: Path) -> NetworkSpec:
    """The promises of an ONNX file: from its metadata, or from the names and shapes of its outputs.

    Raises:
        GraphError: An output is no known task, or input and outputs are not static images and
            logits.
    """
    found = from_metadata({p.key: p.value for p in model.metadata_props}, str(path))
    if found is not None:
        return found
    known = tasks.names()
    outputs = {output.name: _shape(output) for output in model.graph.output}
    strange = [name for name in outputs if name not in known]
    if strange:
        raise GraphError(
            f"{path}: outputs {list(outputs)} are no known tasks (first unknown: {strange[0]!r}). "
            f"Name each logits output after its task: {', '.join(known)}"
        )
    images = [_shape(value) for value in model.graph.input]
    if len(images) != 1 or len(images[0]) != 4 or images[0][:2] != [1, 3] or 0 in images[0]:
        raise GraphError(
            f"{path}: inputs {images}, expected one static image [1, 3, height, width]"
        )
    specs = []
    for name, shape in outputs.items():
        if len(shape) != 4 or 0 in shape:
            raise GraphError(
                f"{path}: output {name!r} has shape {shape}, expected static logits NCHW"
            )
        task = tasks.find(name)
        unnamed = () if task.num_channels else tuple(f"class {i}" for i in range(shape[1]))
        specs.append(task.spec(unnamed))
    return NetworkSpec(
        model=path.stem,
        height=images[0][2],
        width=images[0][3],
        tasks=tuple(specs),
        source=Source(name=path.name, sha256=sha256(path.read_bytes())),
    )


def _shape(value: Any) -> list[int]:
    """Dimensions; 0 stands for one that is not static."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
