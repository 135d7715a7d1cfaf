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
    """

    model: onnx.ModelProto
    spec: NetworkSpec
    detail: str
    is_foreign: bool = False


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
        size: Height and width of a torch module's input, in pixels.
        classes: Class names by task, of a torch module; unnamed classes are numbered.
        normalisation: How an ONNX file of another program wants its input, which it does not say;
            of a torch module, None is ImageNet's.
        outputs: The task of each output of an ONNX file that is not called after it.

    Raises:
        ConfigError: It is none of these, a torch module without `size`, an ONNX file of another
            program without `normalisation`, or a network of ours with one.
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
        return read
    if normalisation is not None:
        return replace(read, spec=normalisation.apply(read.spec))
    if hasattr(network, "forward"):
        return read
    raise ConfigError(
        f"{read.spec.source.name}: an ONNX file does not say how its input is normalised; give "
        "mean and std. Networks trained as on ImageNet have --mean 0.485 0.456 0.406 --std 0.229 "
        "0.224 0.225; one that takes 0..255 as it is has --scale 255 --mean 0 0 0 --std 1 1 1"
    )


def _read(
    network: Network,
    tasks: Sequence[str],
    size: tuple[int, int] | None,
    classes: Mapping[str, Sequence[str]] | None,
    outputs: Mapping[str, str] | None,
) -> FloatNetwork:
    if isinstance(network, str | Path):
        return _from_file(str(network), tasks, outputs)
    if hasattr(network, "graph") and hasattr(network, "opset_import"):
        return _from_model(network, Path("model.onnx"), network.SerializeToString(), outputs)
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


def _from_file(name: str, tasks: Sequence[str], outputs: Mapping[str, str] | None) -> FloatNetwork:
    if not name.endswith(".onnx"):
        return _exported(read_checkpoint(name), tasks)
    from degmix_edge.graph.model import read_model

    return _from_model(read_model(Path(name)), Path(name), None, outputs)


def _from_model(
    model: onnx.ModelProto, path: Path, data: bytes | None, outputs: Mapping[str, str] | None
) -> FloatNetwork:
    """The network of an ONNX model, with its outputs called after their tasks."""
    from degmix_edge.graph.spec import network_spec, rename_outputs

    is_foreign = all(prop.key != METADATA_KEY for prop in model.metadata_props)
    spec = network_spec(model, path, data, outputs)
    if is_foreign and spec.outputs:
        own, model = model, type(model)()
        model.CopyFrom(own)  # the user's object stays as it is
        rename_outputs(model, spec.outputs)
    return FloatNetwork(model, spec, "", is_foreign)


def _exported(checkpoint: Checkpoint, tasks: Sequence[str]) -> FloatNetwork:
    from degmix_training.export import export_checkpoint, network_spec

    model = export_checkpoint(checkpoint, tasks=tasks)
    spec = network_spec(checkpoint, tasks)
    return FloatNetwork(model, spec, _size_of(model, checkpoint.path.name))


def _size_of(model: onnx.ModelProto, name: str) -> str:
    return f"{name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB"
