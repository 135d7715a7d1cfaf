"""Networks by name or as objects: checkpoints, ONNX models, torch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import tasks as all_tasks
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.graph.outputs import select_outputs
from degmix_edge.graph.spec import BYTES_FLAGS, IMAGENET_FLAGS, network_spec, normalisation
from degmix_edge.graph.spec_file import OtherEntry, SpecFile, embedded_spec
from degmix_edge.network import IMAGE, METADATA_KEY, NetworkSpec, Source
from degmix_edge.preprocess import Fit
from degmix_edge.registry import unknown

if TYPE_CHECKING:
    import onnx
    import torch
    from degmix_training.checkpoint import Checkpoint

Network = Any
"""A short name (`degmix_tiny`), a path of a checkpoint or of an `.onnx` file, a `Checkpoint`, an
`onnx.ModelProto`, or a `torch.nn.Module`."""


@dataclass(frozen=True)
class FloatNetwork:
    """A float ONNX network and what it promises.

    Attributes:
        model: Normalised `(1, C, H, W)` in, logits named by task out.
        spec: Size, normalisation, tasks and source.
        fit: How images become its input.
        detail: In words: what was exported, or what is assumed of a foreign network.
        original: The network of another program as it came; None for one of ours.
    """

    model: onnx.ModelProto
    spec: NetworkSpec
    fit: Fit
    detail: str
    original: onnx.ModelProto | None = None


Wanted = tuple[tuple[int, int] | None, int | None]
"""Size and batch that were asked for."""
Describe = Callable[[SpecFile | None], SpecFile]
"""What the user says of a foreign network, given the spec that is inside its file."""


def as_embedded(embedded: SpecFile | None) -> SpecFile:
    """Return what the file itself says."""
    return embedded or SpecFile()


def read_network(
    network: Network,
    *,
    tasks: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    split: bool = False,
    classes: Mapping[str, Sequence[str]] | None = None,
    describe: Describe = as_embedded,
) -> FloatNetwork:
    """The float ONNX network of whatever the user gave.

    Args:
        network: What `Network` lists.
        tasks: The tasks of a checkpoint to export; none is all. Passes drop the others from an ONNX
            model.
        size: Height and width in pixels of the input of a torch module, of a checkpoint, which has
            its own, or of an ONNX file of another program whose axes are dynamic.
        batch: How many images one call computes; None is what an ONNX file says, and 1 elsewhere.
        split: Keep the nodes of each task apart, for an engine that runs any subset of them.
        classes: Class names by task, of a torch module; unnamed classes are numbered.
        describe: What the user says of a network of another program. An ONNX file has to be
            described; a torch module is normalised as ImageNet's where nothing is said.

    Raises:
        ConfigError: It is none of these, a torch module without `size`, an ONNX file of another
            program whose normalisation is not said, a network of ours with a description, or an
            ONNX file of ours with another size; or it cannot be split.
        CheckpointError, GraphError: The file is missing or damaged, or cannot be exported.
    """
    if split:
        check_split(network, batch)
    if isinstance(network, str | Path):
        path = Path(network)
        if path.suffix != ".onnx":
            checkpoint = read_checkpoint(str(network))
            return _exported(checkpoint, tasks, size, batch, describe, split=split)
        from degmix_edge.graph.model import read_model

        return _from_model(read_model(path), path, None, (size, batch), describe)
    if hasattr(network, "graph") and hasattr(network, "opset_import"):
        data = network.SerializeToString()
        return _from_model(network, Path("model.onnx"), data, (size, batch), describe)
    if hasattr(network, "card") and hasattr(network, "network"):
        return _exported(network, tasks, size, batch, describe, split=split)
    if hasattr(network, "state_dict") and hasattr(network, "forward"):
        return _from_module(network, (size, batch), classes or {}, describe)
    raise ConfigError(
        f"network: got {type(network).__name__}, expected a short name such as 'degmix_tiny', a "
        "path of a checkpoint or .onnx file, a Checkpoint, an onnx.ModelProto or a torch.nn.Module"
    )


def _from_module(
    module: torch.nn.Module,
    wanted: Wanted,
    classes: Mapping[str, Sequence[str]],
    describe: Describe,
) -> FloatNetwork:
    from degmix_training.export import describe as describe_model
    from degmix_training.export import export_module, module_hash

    from degmix_edge.graph.adopt import adopt

    name, said = type(module).__name__, describe(None)
    size, batch = wanted[0] or said.input.size, wanted[1] or said.batch or 1
    if size is None:
        raise ConfigError(
            f"{name}: a torch module does not say the size of its input; give size=(height, width)"
        )
    normalised = normalisation(said, name)
    channels = said.input.channels_said or 1
    others = {
        entry.tensor or key: _example_shape(name, key, entry, (batch, *size))
        for key, entry in said.inputs.items()
    }
    model = export_module(module, size, channels=channels, batch=batch, others=others)
    _check_outputs(model, said, name)
    said = said.with_input(tensor=IMAGE)
    adopted, path = adopt(model, name, said=said), Path(name)
    spec = network_spec(adopted, path, b"", said, original=model, classes=classes)
    source = Source(name=name, sha256=module_hash(module))
    spec = (normalised.apply(spec) if normalised else spec).model_copy(update={"source": source})
    fit, selected = said.fit(*size), select_outputs(adopted, spec)
    own = {"output": "", "channels": None, "channels_last": False}
    tasks = tuple(task.model_copy(update=own) for task in spec.tasks)
    describe_model(selected, spec.model_copy(update={"tasks": tasks}), {})
    detail = f"{_size_of(selected, name)}; {in_words(spec, fit)}"
    return FloatNetwork(selected, spec, fit, detail, original=model)


def _example_shape(
    where: str, name: str, entry: OtherEntry, image: tuple[int, int, int]
) -> tuple[int, ...]:
    """The shape of a torch module's input beside the image.

    Raises:
        ConfigError: Nothing says it.
    """
    batch, height, width = image
    if entry.shape is not None:
        return entry.shape
    shapes = {"map": (batch, 1, height, width), "intrinsics": (batch, 3, 3)}
    shapes["image"] = (batch, 1 if entry.color == "grey" else 3, height, width)
    if entry.kind not in shapes:
        raise ConfigError(
            f"{where}: input {name!r}: a torch module does not say the shape of a {entry.kind}; "
            "give it in the spec (shape: [1, 8, 32, 48])"
        )
    return shapes[entry.kind]


def _check_outputs(model: onnx.ModelProto, said: SpecFile, name: str) -> None:
    """Refuse a torch module whose outputs are not tasks, where nothing says what they are.

    Raises:
        GraphError: Names the outputs.
    """
    names = [value.name for value in model.graph.output]
    strange = [one for one in names if one not in all_tasks.names() and one not in said.outputs]
    if strange and not said.tasks:
        raise GraphError(
            f"{name}: returns {', '.join(names)}, expected a dictionary from task to logits "
            "(N, C, H, W), or a spec that says what each output is (spec=..., or outputs=...); "
            + unknown("task", strange[0], all_tasks.names())
        )


def _from_model(
    model: onnx.ModelProto,
    path: Path,
    data: bytes | None,
    wanted: Wanted,
    describe: Describe,
) -> FloatNetwork:
    """The network of an ONNX model, with its outputs called after their tasks.

    Raises:
        ConfigError: It is not described, or the description does not fit.
    """
    from degmix_edge.graph.adopt import adopt, takes_bytes

    metadata = {prop.key: prop.value for prop in model.metadata_props}
    said = describe(embedded_spec(metadata, str(path)))
    if METADATA_KEY in metadata:
        spec = network_spec(model, path, data)
        _refuse(said, spec, wanted)
        return FloatNetwork(model, spec, said.fit(spec.height, spec.width), "")
    normalised = normalisation(said, str(path), takes_bytes=takes_bytes(model, said))
    if normalised is None:
        raise ConfigError(
            f"{path}: an ONNX file does not say how its input is normalised; give mean, std and "
            f"color. Networks trained as on ImageNet have {IMAGENET_FLAGS}; one that takes 0..255 "
            f"as it is has {BYTES_FLAGS}"
        )
    size, batch = wanted[0] or said.input.size, wanted[1] or said.batch
    adopted = adopt(model, str(path), size=size, batch=batch, said=said)
    spec = normalised.apply(network_spec(adopted, path, data, said, original=model))
    fit = said.fit(spec.height, spec.width)
    detail = f"{_adoption(model, adopted)}; {in_words(spec, fit)}"
    return FloatNetwork(select_outputs(adopted, spec), spec, fit, detail, original=model)


def _adoption(original: onnx.ModelProto, adopted: onnx.ModelProto) -> str:
    """What was adopted, in words."""
    from degmix_edge.graph.opset import OPSET, version_of

    before, after = len(original.graph.node), len(adopted.graph.node)
    return f"opset {version_of(original)} -> {OPSET}, {before} -> {after} nodes"


def in_words(spec: NetworkSpec, fit: Fit) -> str:
    """Return what a build takes a foreign network to be, for people to check."""
    white = 1 if spec.takes_map else 255
    mean, std = (" ".join(f"{white * v:.4g}" for v in values) for values in (spec.mean, spec.std))
    unit = f" in {spec.unit}" if spec.unit else ""
    values = f"values{unit} times {spec.scale:g}" if spec.takes_map else "0..255"
    parts = [f"{spec.color} {spec.height}x{spec.width}, {values} minus {mean} by {std}, {fit.mode}"]
    if spec.batch > 1:
        parts.append(f"{spec.batch} images a call")
    for one in spec.inputs:
        means = f", minus {one.mean} by {one.std}" if one.mean else ""
        comes = f", from task {one.output}" if one.output else ""
        unit = f" [{one.unit}]" if one.unit else ""
        parts.append(f"{one.name}: {one.kind} {one.dtype} {one.shape}{unit}{means}{comes}")
    for task in spec.tasks:
        of = f" of {task.output}" if task.output else ""
        classes = f", {len(task.classes)} classes" if task.classes else ""
        parts.append(f"{task.name}: {task.decode}{of}{classes} [{task.unit}]")
    return "; ".join(parts)


def _refuse(said: SpecFile, spec: NetworkSpec, wanted: Wanted) -> None:
    """Refuse a description of a network that describes itself.

    Raises:
        ConfigError: There is one, or another size or batch.
    """
    size, batch = wanted
    if not said.is_empty:
        raise ConfigError(
            f"{spec.source.name}: says itself how its input is normalised and which task each "
            "output is; leave out spec, mean, std, scale, color and outputs"
        )
    if size not in (None, (spec.height, spec.width)):
        raise ConfigError(
            f"{spec.source.name}: takes {spec.height}x{spec.width}, and size is "
            f"{size[0]}x{size[1]}; leave out size, or export the network again"
        )
    if batch not in (None, spec.batch):
        raise ConfigError(
            f"{spec.source.name}: takes {spec.batch} images a call, and batch is {batch}; leave "
            "out batch, or build from the checkpoint"
        )


def check_split(network: Network, batch: int | None) -> None:
    """Refuse what has no tasks that can run apart, before any work.

    Raises:
        ConfigError: It is no checkpoint, or a call has several images.
    """
    is_file = isinstance(network, str | Path) and Path(network).suffix == ".onnx"
    if is_file or not (isinstance(network, str | Path) or hasattr(network, "card")):
        what = str(network) if is_file else type(network).__name__
        raise ConfigError(
            f"{what}: cannot be split into tasks that run apart, only a checkpoint of a demt, "
            "demtg or degmix can; build from the checkpoint, or leave out --split"
        )
    if batch not in (None, 1):
        raise ConfigError(
            f"--split: what a task leaves to the others belongs to one camera, and a call has "
            f"{batch} images; leave out --batch, or --split"
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


def task_names(text: str | Sequence[str] | None, network: Network = None) -> tuple[str, ...]:
    """`semseg,depth`, or a sequence, as names of tasks.

    Of a checkpoint's network the names are checked before it is read. Other programs' networks
    have names of their own.

    Raises:
        ConfigError: A name is no task; the message has the nearest one.
    """
    parts = text.split(",") if isinstance(text, str) else (text or ())
    names = tuple(part.strip() for part in parts if part.strip())
    if isinstance(network, str | Path) and Path(network).suffix != ".onnx":
        for name in names:
            all_tasks.find(name)
    return names


def _exported(
    checkpoint: Checkpoint,
    tasks: Sequence[str],
    size: tuple[int, int] | None,
    batch: int | None,
    describe: Describe,
    *,
    split: bool = False,
) -> FloatNetwork:
    from degmix_training.export import export_checkpoint, network_spec

    said, spec = describe(None), network_spec(checkpoint, tasks, batch=batch or 1)
    _refuse(said, spec, (None, batch))
    if size is not None:  # convolutions take any, and what a size decides is exported for this one
        card = checkpoint.card.model_copy(update={"height": size[0], "width": size[1]})
        checkpoint = replace(checkpoint, card=card)
        spec = network_spec(checkpoint, tasks, batch=spec.batch)
    model = export_checkpoint(checkpoint, tasks=tasks, batch=spec.batch, split=split)
    detail = _size_of(model, checkpoint.path.name)
    return FloatNetwork(model, spec, said.fit(spec.height, spec.width), detail)


def _size_of(model: onnx.ModelProto, name: str) -> str:
    return f"{name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB"
