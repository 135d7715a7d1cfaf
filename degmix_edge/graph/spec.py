"""The spec of an ONNX file of another program: what the file says and what its user does.

`spec_file` has the user's part. Names, shapes and dtypes come from the graph, and the two must fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import metrics, tasks
from degmix_edge.config import parse
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.files import sha256
from degmix_edge.graph.layout import has_last_channels, is_channels_last
from degmix_edge.graph.spec_file import InputEntry, OtherEntry, SpecFile, TaskEntry
from degmix_edge.network import NetworkSpec, Normalisation, Source, from_metadata, part_name
from degmix_edge.registry import unknown
from degmix_edge.tasks import DECODES, TaskSpec
from degmix_edge.tensors import TensorSpec

if TYPE_CHECKING:
    import onnx

IMAGENET_FLAGS = "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --color rgb"
BYTES_FLAGS = "--scale 255 --mean 0 0 0 --std 1 1 1 --color rgb"


def network_spec(
    model: onnx.ModelProto,
    path: Path,
    data: bytes | None = None,
    said: SpecFile | None = None,
    *,
    original: onnx.ModelProto | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> NetworkSpec:
    """Return the spec of an ONNX model: its own, or what its graph and `said` say together.

    The normalisation stays ImageNet's; `normalisation` has what was said.

    Args:
        model: The model, with static shapes.
        path: Its file, or a name for a model that has no file.
        data: The bytes of a model that has no file.
        said: What its user says.
        original: The file as it came, before its input had channels first.
        classes: Class names by task, in place of those of `said`.

    Raises:
        ConfigError: `said` does not fit the graph: it names a tensor that does not exist, or a
            number of channels or classes that the tensor does not have.
        GraphError: An output is not a known task, or the input is no image.
    """
    own_spec = from_metadata({p.key: p.value for p in model.metadata_props}, str(path))
    if own_spec is not None:
        return own_spec
    said = said or SpecFile()
    image = _image(model, path, said)
    is_last = is_channels_last(_image(original or model, path, said, is_adopted=False).shape)
    outputs = {value.name: tensor_of(value) for value in model.graph.output}
    specs = []
    for name, entry in _entries(said, outputs, path, classes or {}).items():
        tensor = outputs[entry.output or name]
        if entry.channels_last is None:
            last = is_last and has_last_channels(tensor.shape, image.shape[2:])
            entry = entry.model_copy(update={"channels_last": last})
        specs.append(task_spec(name, entry, tensor, image, f"{path}: task {name!r}"))
    return parse(
        NetworkSpec,
        {
            **_first_input(said.input, image.shape[1] or 1),
            "model": said.model or path.stem,
            "batch": image.shape[0],
            "tensor": said.input.tensor or "",
            "image_channels": said.input.channels,
            "inputs": _others(model, said),
            "height": image.shape[2],
            "width": image.shape[3],
            "tasks": tuple(specs),
            "source": _source(path, data),
        },
        str(path),
    )


def _first_input(said: InputEntry, channels: int) -> dict[str, Any]:
    """The first input before its normalisation, for which this has some of as many channels."""
    values: dict[str, Any] = {"color": said.color or "rgb"}
    if said.takes_map:
        mean, std = channels * (0.0,), channels * (1.0,)
        return {**values, "mean": mean, "std": std, "unit": said.unit or "", "pad": said.pad or 0.0}
    return values | ({"mean": (0.5,), "std": (0.5,)} if said.color == "grey" else {})


def _source(path: Path, data: bytes | None) -> Source:
    digest = source_hash(path) if data is None else sha256(data)
    return Source(name=path.name, sha256=digest)


def normalisation(said: SpecFile, where: str, *, takes_bytes: bool = False) -> Normalisation | None:
    """Return how the network wants its input; None where nothing was said.

    Args:
        said: What its user says.
        where: The beginning of messages.
        takes_bytes: The input is uint8, so that only the order of the colours is not known.

    Raises:
        ConfigError: Only a part of it was said, or the parts contradict each other or the input.
    """
    names = ("mean", "std", "scale", "color")
    values = {name: getattr(said.input, name) for name in names}
    given = [name for name, value in values.items() if value is not None]
    if takes_bytes:
        return _of_bytes(said, where)
    if not given:
        return None
    missing = [name for name in ("mean", "std", "color") if name not in given]
    if missing:
        raise ConfigError(
            f"{where}: {', '.join(given)} given: give {' and '.join(missing)} too "
            f"({', '.join(f'--{name}' for name in missing)}); colours are rgb, bgr or grey, and "
            "inputs that are no picture depth or other"
        )
    return parse(Normalisation, {k: v for k, v in values.items() if v is not None}, where)


def _of_bytes(said: SpecFile, where: str) -> Normalisation:
    """The normalisation of a network that takes bytes as they are."""
    image, scale = said.input, 1 if said.input.takes_map else 255
    wrong = {*(image.mean or ())} - {0} or {*(image.std or ())} - {1}
    if wrong or image.scale not in (None, scale):
        raise ConfigError(
            f"{where}: its input is uint8, so that it normalises the image itself; leave out mean, "
            f"std and scale, or give 0, 1 and {scale}"
        )
    if image.color is None:
        raise ConfigError(
            f"{where}: its input is uint8, and only the order of its colours is not known; give "
            "color (--color rgb, bgr, grey or other)"
        )
    return Normalisation(mean=(0,), std=(1,), scale=scale, color=image.color)


def task_spec(
    name: str, entry: TaskEntry, tensor: TensorSpec, image: TensorSpec, where: str
) -> TaskSpec:
    """Return the task of one output.

    Args:
        name: What the map is called.
        entry: What the user says of it.
        tensor: The output: name, dtype and shape.
        image: The input `(N, C, H, W)`, whose shape a map has too.
        where: The beginning of messages.

    Raises:
        ConfigError: The tensor does not have what was said.
        GraphError: A map is not a static image-like tensor.
    """
    if entry.kind is None and name not in tasks.names():
        raise ConfigError(
            f"{where}: say of what kind it is (kind: ...), one of {', '.join(tasks.names())}"
        )
    kind = tasks.find(entry.kind or name)
    is_integer = not tensor.dtype.startswith(("float", "bfloat"))
    # An argmax that is inside the graph already shows in the dtype.
    inside = "labels" if kind.decode == "argmax" and is_integer else kind.decode
    decode = entry.decode or inside
    said: dict[str, Any] = {
        **{"unit": entry.unit, "metric": entry.metric, "scale": entry.scale},
        **{"palette": entry.palette, "channels": entry.channels},
    }
    values = {key: value for key, value in said.items() if value is not None}
    values |= {"name": name, "decode": decode, "output": "" if tensor.name == name else tensor.name}
    values |= {"stride": entry.stride, "channels_last": bool(entry.channels_last)}
    metrics.find(entry.metric or kind.metric)  # an unknown one raises its own error
    if decode == "raw":
        raw = {"num_channels": 1, "shape": tensor.shape, "dtype": tensor.dtype}
        base = {"unit": kind.unit, "metric": kind.metric}
        return parse(TaskSpec, {**base, **values, **raw}, where)
    found = _channels(tensor, entry, image, where)
    classes = _classes(entry, kind.classes, decode, found)
    expected = len(classes) if decode == "argmax" and classes else DECODES[decode].channels
    if expected not in (None, found):
        raise ConfigError(
            f"{where}: output {tensor} has {found} channels, {decode} takes {expected}"
        )
    if decode == "labels" and not classes:
        raise ConfigError(f"{where}: output {tensor} has class indices; say how many (classes: 19)")
    values["num_channels"] = len(classes) if decode == "labels" else found
    own = kind.spec(classes)  # a package's task may have colours of its own
    return parse(TaskSpec, {**own.model_dump(), **values}, where)


def _channels(tensor: TensorSpec, entry: TaskEntry, image: TensorSpec, where: str) -> int:
    """How many channels of the tensor the map is made of.

    Raises:
        ConfigError: It has other channels, or other proportions than the image.
        GraphError: It is no static map.
    """
    shape, (_, _, *whole) = ([side or 0 for side in t.shape] for t in (tensor, image))
    if len(shape) not in (3, 4) or not all(shape):
        raise GraphError(
            f"{where}: output {tensor}, expected a static map (N, C, H, W) or (N, H, W); a tensor "
            "of another kind is `kind: raw` (--map OUTPUT=raw)"
        )
    if shape[0] != image.shape[0]:
        raise GraphError(
            f"{where}: output {tensor} is of {shape[0]} images, and the input {image} of "
            f"{image.shape[0]}; images that give one map together are inputs of their own"
        )
    _, have, *sides = (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape
    if len(shape) == 4 and entry.channels_last:
        _, *sides, have = shape
    strides = [of / side for of, side in zip(whole, sides, strict=True)]
    if max(strides) - min(strides) > 0.25 * max(strides):
        other = "false" if entry.channels_last else "true"
        raise ConfigError(
            f"{where}: output {tensor} is a map of {sides[0]}x{sides[1]}, other proportions than "
            f"the input {image}; channels_last: {other} swaps the axes, and a tensor that is no "
            "map is `kind: raw` (--map OUTPUT=raw)"
        )
    if entry.channels is None:
        return have
    first, end = entry.channels
    if not 0 <= first < end <= have:
        raise ConfigError(f"{where}: channels {first}..{end}, the output {tensor} has {have}")
    return end - first


def _classes(
    entry: TaskEntry, default: tuple[str, ...], decode: str, channels: int
) -> tuple[str, ...]:
    """The names of the classes; a count gives numbered ones, and so do logits without names."""
    given = entry.classes
    if isinstance(given, tuple):
        return given
    if given is None and (len(default) == channels or decode == "labels"):
        return default
    count = given or (channels if decode == "argmax" else 0)
    return tuple(f"class {i}" for i in range(count))


def _entries(
    said: SpecFile,
    outputs: Mapping[str, TensorSpec],
    path: Path,
    classes: Mapping[str, Sequence[str]],
) -> dict[str, TaskEntry]:
    """The maps by name: those that are described or, if none is, one for each output.

    Raises:
        ConfigError: Two outputs have one name, or an output or a kind does not exist.
        GraphError: An output has no name that says its kind.
    """
    for own, kind in said.outputs.items():
        if own not in outputs:
            raise ConfigError(f"{path}: " + unknown("output", own, list(outputs)))
        tasks.find(kind)  # an unknown one raises its own error
    if said.tasks:
        named = list(said.outputs)
    else:
        named = list(outputs)
        strange = [n for n in named if n not in tasks.names() and n not in said.outputs]
        if strange:
            raise GraphError(
                f"{path}: outputs {named} are no known tasks (first unknown: {strange[0]!r}). Say "
                f"which task each is (--map {strange[0]}=TASK), of {', '.join(tasks.names())}; or "
                f"describe them in a file that `degmix-edge spec init {path}` begins"
            )
    entries = dict(said.tasks)
    first = {name: entry.output or name for name, entry in entries.items()}
    for own in named:
        name = said.outputs.get(own, own)
        if name in entries:
            raise ConfigError(
                f"{path}: task {name!r}: outputs {first[name]} and {own} are both called so; give "
                "them names of their own in a spec (--spec)"
            )
        entries[name], first[name] = TaskEntry(output=own), own
    for name, names in classes.items():
        if name not in entries:
            raise ConfigError(f"{path}: classes: " + unknown("task", name, list(entries)))
        entries[name] = entries[name].model_copy(update={"classes": tuple(names)})
    for name, entry in entries.items():
        own = entry.output or name
        if own not in outputs:
            raise ConfigError(f"{path}: task {name!r}: " + unknown("output", own, list(outputs)))
    return entries


def _image(
    model: onnx.ModelProto, path: Path, said: SpecFile, *, is_adopted: bool = True
) -> TensorSpec:
    """The image input; `(N, C, H, W)` once it is adopted.

    Raises:
        ConfigError: It contradicts what was said.
        GraphError: It is no static image.
    """
    inputs = _inputs(model)
    wanted = said.image_among([*inputs])
    if is_adopted and wanted is not None:
        wanted = part_name(wanted, said.input.channels)
    if wanted is None or wanted not in inputs:
        raise ConfigError(f"{path}: " + unknown("input", wanted or "image", [*inputs]))
    image = inputs[wanted]
    if not is_adopted:
        return image
    channels, shape = said.input.channels_said, image.shape
    is_known = said.input.takes_map or shape[1:2] in ((1,), (3,))
    if len(shape) != 4 or not all(shape) or not is_known:
        raise GraphError(f"{path}: input {image}, expected one static image [1, 3, height, width]")
    if channels not in (None, shape[1]):
        raise ConfigError(
            f"{path}: input {image} has {shape[1]} channels, color {said.input.color or 'rgb'} has "
            f"{channels} (--color grey or depth is for one channel, other for any number)"
        )
    for side, axis in (("height", 2), ("width", 3)):
        asked = getattr(said.input, side)
        if asked not in (None, shape[axis]):
            raise ConfigError(f"{path}: {side} {asked}, the input {image} has {shape[axis]}")
    return image


def _inputs(model: onnx.ModelProto) -> dict[str, TensorSpec]:
    weights = {tensor.name for tensor in model.graph.initializer}
    values = (value for value in model.graph.input if value.name not in weights)
    return {value.name: tensor_of(value) for value in values}


def _others(model: onnx.ModelProto, said: SpecFile) -> list[dict[str, Any]]:
    """What the network takes beside the image, without the normalisation of images."""
    inputs, specs = _inputs(model), []
    for name, entry in said.inputs.items():
        tensor = entry.tensor or name
        own = inputs[part_name(tensor, entry.channels)]
        values: dict[str, Any] = {"name": name, "kind": entry.kind, "shape": own.shape}
        values |= {"dtype": own.dtype, "tensor": "" if tensor == name else tensor}
        values |= {"channels": entry.channels}
        values |= {"output": entry.output or "", "unit": entry.unit, "pad": entry.pad}
        if entry.kind == "image":
            if said.input.takes_map and None in (entry.color, entry.mean, entry.std):
                raise ConfigError(
                    f"input {name!r}: an image beside a first input that is none; say its color, "
                    "mean and std in a spec"
                )
            values |= {"color": entry.color or said.input.color or "rgb"}
            values |= _normalised(entry, said, 1 if values["color"] == "grey" else 3)
        elif entry.kind == "map":
            values |= {"mean": entry.mean or (0,), "std": entry.std or (1,), "scale": entry.scale}
        specs.append(values)
    return specs


def _normalised(entry: OtherEntry, said: SpecFile, channels: int) -> dict[str, Any]:
    """Mean and std of a further image, which are those of the first where nothing is said."""
    first = said.input
    own = entry.mean is not None or entry.std is not None
    mean, std = (entry.mean, entry.std) if own else (first.mean, first.std)
    scale = entry.scale if own else first.scale or 1
    pairs = (("mean", mean or (0,)), ("std", std or (1,)))
    return {
        key: tuple(values[i % len(values)] / scale for i in range(channels))
        for key, values in pairs
    }


def tensor_of(value: Any) -> TensorSpec:
    """Return name, dtype and shape of an ONNX input or output; None is a side that is not known."""
    import onnx

    kind = value.type.tensor_type
    shape = tuple(dim.dim_value or None for dim in kind.shape.dim)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def source_hash(path: Path) -> str:
    """Return the SHA-256 of an ONNX file and, if its weights lie in other files, of these too."""
    import onnx

    digest = hashlib.sha256(path.read_bytes())
    outline = onnx.load(path, load_external_data=False)
    entries = (entry for weight in outline.graph.initializer for entry in weight.external_data)
    for name in sorted({entry.value for entry in entries if entry.key == "location"}):
        digest.update((path.parent / name).read_bytes())
    return digest.hexdigest()
