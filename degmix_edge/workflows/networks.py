"""Networks by name or as objects: checkpoints, ONNX models, torch modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import tasks as all_tasks
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.network import METADATA_KEY, NetworkSpec, Normalisation

if TYPE_CHECKING:
    import onnx
    from degmix_training.checkpoint import Checkpoint

Network = Any
"""A short name (`degmix_tiny`), a path of a checkpoint or of an `.onnx` file, a `Checkpoint`, an
`onnx.ModelProto`, or a `torch.nn.Module`."""


@dataclass(frozen=True)
class FloatNetwork:
    """A float ONNX network and what it promises.

    Attributes:
        model: Normalised `(1, 3, H, W)` in, logits named by task out.
        spec: Size, normalisation, tasks and source.
        detail: In words: what was exported; empty for a network that was ONNX already.
        is_foreign: Another program made it, so that it does not say how it wants its input.
        original: The ONNX model as its file has it, where `model` was adopted from it.
    """

    model: onnx.ModelProto
    spec: NetworkSpec
    detail: str
    is_foreign: bool = False
    original: onnx.ModelProto | None = None


def read_network(
    network: Network,
    *,
    tasks: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    normalisation: Normalisation | None = None,
    outputs: Mapping[str, str] | None = None,
) -> FloatNetwork:
    """The float ONNX network of whatever the user gave.

    Args:
        network: See `Network`.
        tasks: Of a checkpoint, only these are exported; none is all. Passes drop the others from an
            ONNX model.
        size: Height and width in pixels of the input of a torch module, or of an ONNX file of
            another program whose axes are dynamic.
        classes: Class names by task, of a torch module; unnamed classes are numbered.
        normalisation: How an ONNX file of another program wants its input, which it does not say;
            of a torch module, None is ImageNet's. A network that takes bytes needs none.
        outputs: The task of each output of an ONNX file that is not called after it.

    Raises:
        ConfigError: It is none of these, a torch module without `size`, an ONNX file of another
            program without `normalisation`, or a network of ours with one or with `size`.
        CheckpointError, GraphError: The file is missing or damaged, or cannot be exported.
    """
    read = _read(network, tasks, size, classes, outputs)
    if not read.is_foreign:
        if outputs:
            raise ConfigError(f"{read.spec.source.name}: says itself which task each output is")
        if normalisation is not None:
            raise ConfigError(
                f"{read.spec.source.name}: says itself how its input is normalised; leave out "
                "mean, std, scale and color"
            )
        if size is not None and size != (read.spec.height, read.spec.width):
            raise ConfigError(
                f"{read.spec.source.name}: takes {read.spec.height} x {read.spec.width}, and size "
                f"is {size[0]} x {size[1]}; leave out size, or export the network again"
            )
        return read
    if read.original is not None and _takes_bytes(read.original):
        return replace(read, spec=_bytes_normalisation(read.spec, normalisation).apply(read.spec))
    if normalisation is not None:
        return replace(read, spec=normalisation.apply(read.spec))
    if hasattr(network, "forward"):
        return read
    raise ConfigError(
        f"{read.spec.source.name}: an ONNX file does not say how its input is normalised; give "
        "mean and std. Networks trained as on ImageNet have --mean 0.485 0.456 0.406 --std 0.229 "
        "0.224 0.225; one that takes 0..255 as it is has --scale 255 --mean 0 0 0 --std 1 1 1"
    )


def _takes_bytes(original: onnx.ModelProto) -> bool:
    from degmix_edge.graph.adopt import takes_bytes

    return takes_bytes(original)


def _bytes_normalisation(spec: NetworkSpec, said: Normalisation | None) -> Normalisation:
    """The normalisation of a network that takes bytes as they are."""
    plain = Normalisation(mean=(0, 0, 0), std=(1, 1, 1), scale=255)
    if said is None:
        return plain
    if said.model_copy(update={"color": plain.color}) != plain:
        raise ConfigError(
            f"{spec.source.name}: its input is uint8, so that it normalises the image itself; "
            "leave out mean, std and scale, or give 0 0 0, 1 1 1 and 255"
        )
    return said


def _read(
    network: Network,
    tasks: Sequence[str],
    size: tuple[int, int] | None,
    classes: Mapping[str, Sequence[str]] | None,
    outputs: Mapping[str, str] | None,
) -> FloatNetwork:
    if isinstance(network, str | Path):
        return _from_file(str(network), tasks, size, outputs)
    if hasattr(network, "graph") and hasattr(network, "opset_import"):
        return _from_model(network, Path("model.onnx"), network.SerializeToString(), size, outputs)
    if hasattr(network, "card") and hasattr(network, "network"):
        return _exported(network, tasks)
    if hasattr(network, "state_dict") and hasattr(network, "forward"):
        from degmix_training.export import export_module

        if size is None:
            raise ConfigError(
                f"{type(network).__name__}: a torch module does not say the size of its input; "
                "give size=(height, width)"
            )
        model, spec = export_module(network, size, classes or {})
        return FloatNetwork(model, spec, _size_of(model, type(network).__name__), is_foreign=True)
    raise ConfigError(
        f"network: got {type(network).__name__}, expected a short name such as 'degmix_tiny', a "
        "path of a checkpoint or .onnx file, a Checkpoint, an onnx.ModelProto or a torch.nn.Module"
    )


def check_network(network: Network) -> None:
    """Complain of a name that names nothing, before any long work.

    Raises:
        CheckpointError, GraphError: There is no such file.
    """
    if not isinstance(network, str | Path):
        return
    if not str(network).endswith(".onnx"):
        from degmix_training.checkpoint import locate

        locate(str(network))
    elif not Path(network).is_file():
        raise GraphError(f"{network}: no such file")


def read_checkpoint(name: str | Path | Checkpoint) -> Checkpoint:
    """A checkpoint by path, or by the short name of a shipped one; a loaded one stays as it is.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    from degmix_training.checkpoint import Checkpoint, load, locate

    return name if isinstance(name, Checkpoint) else load(locate(str(name)))


def task_names(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """`semseg,depth`, or a sequence, as checked names of tasks.

    Raises:
        ConfigError: A name is no task; the message has the nearest one.
    """
    parts = text.split(",") if isinstance(text, str) else (text or ())
    names = tuple(part.strip() for part in parts if part.strip())
    for name in names:
        all_tasks.find(name)
    return names


def _from_file(
    name: str,
    tasks: Sequence[str],
    size: tuple[int, int] | None,
    outputs: Mapping[str, str] | None,
) -> FloatNetwork:
    if not name.endswith(".onnx"):
        return _exported(read_checkpoint(name), tasks)
    from degmix_edge.graph.model import read_model

    return _from_model(read_model(Path(name)), Path(name), None, size, outputs)


def _from_model(
    model: onnx.ModelProto,
    path: Path,
    data: bytes | None,
    size: tuple[int, int] | None,
    outputs: Mapping[str, str] | None,
) -> FloatNetwork:
    """The network of an ONNX model, with its outputs called after their tasks."""
    from degmix_edge.graph.adopt import adopt
    from degmix_edge.graph.spec import network_spec, rename_outputs

    is_foreign = all(prop.key != METADATA_KEY for prop in model.metadata_props)
    if not is_foreign:
        return FloatNetwork(model, network_spec(model, path, data, outputs), "")
    adopted = adopt(model, str(path), size=size)
    spec = network_spec(adopted, path, data, outputs)
    rename_outputs(adopted, spec.outputs)
    return FloatNetwork(adopted, spec, _adoption(model, adopted), True, model)


def _adoption(original: onnx.ModelProto, adopted: onnx.ModelProto) -> str:
    """What was adopted, in words."""
    from degmix_edge.graph.opset import OPSET, version_of

    before, after = len(original.graph.node), len(adopted.graph.node)
    return f"opset {version_of(original)} -> {OPSET}, {before} -> {after} nodes"


def _exported(checkpoint: Checkpoint, tasks: Sequence[str]) -> FloatNetwork:
    from degmix_training.export import export_checkpoint, network_spec

    model = export_checkpoint(checkpoint, tasks=tasks)
    spec = network_spec(checkpoint, tasks)
    return FloatNetwork(model, spec, _size_of(model, checkpoint.path.name))


def _size_of(model: onnx.ModelProto, name: str) -> str:
    return f"{name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB"
