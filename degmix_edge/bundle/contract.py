"""What a bundle's model takes and gives, in words that need no other page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from degmix_edge import registry, tasks
from degmix_edge.bundle.manifest import Manifest
from degmix_edge.network import InputSpec, NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.tasks import DECODES, TaskSpec, look
from degmix_edge.tensors import TensorSpec

LOGITS = "The raw scores behind the map, one channel for each class or component."
KINDS = {"classes": "class", "grey": "probability", "ramp": "measure", "normal": "vector"}
"""What an output's numbers are, by the look of its map; others are plain `numbers`."""


@dataclass(frozen=True)
class Input:
    """One input of model.onnx.

    Attributes:
        name, dtype, shape: The tensor.
        kind: `image`, `map`, `intrinsics`, `tensor` or `state`.
        layout: A letter for each dimension; empty where it is no image, and no map in its place.
        color: Order of an image's channels; empty of other inputs.
        range: Lowest and highest value; None is unbounded.
        fit: How an image of any size becomes the input, and what is aligned with it; None of other
            inputs.
        meaning: The same in sentences.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    kind: str
    layout: str
    color: str
    range: tuple[int | None, int | None]
    fit: Fit | None
    meaning: str


@dataclass(frozen=True)
class Output:
    """One output of model.onnx.

    Attributes:
        name, dtype, shape, unit: The tensor.
        layout: A letter for each dimension.
        range: Lowest and highest value; None is unbounded.
        task: The task that it belongs to.
        kind: `class` for indices, `probability`, `measure` for what is not below zero, `vector` for
            unit vectors of three components, `logits`, or `numbers` of any other meaning.
        stride: Pixels of the input for one of the map.
        meaning: What a value is, in sentences.
        classes: Class names by index or channel; empty where values are no classes.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    unit: str
    layout: str
    range: tuple[float | None, float | None]
    task: str
    kind: str
    stride: int
    meaning: str
    classes: dict[int, str]


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of a bundle's model.onnx, and of every engine that is built from it."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


def contract(manifest: Manifest) -> Contract:
    """Return what the model of `manifest` takes and gives."""
    network = manifest.network
    count = len(network.tasks)
    logits = dict(zip(network.logits_specs, network.tasks, strict=True))
    maps = zip(manifest.outputs, network.tasks, strict=False)
    return Contract(
        _inputs(manifest),
        (
            *(_map(tensor, task) for tensor, task in maps),
            *(_logits(tensor, logits[tensor]) for tensor in manifest.outputs[count:]),
        ),
    )


def contract_lines(agreed: Contract) -> list[str]:
    """Return the contract as lines of text for people: tensors, and indented what they hold."""
    lines = []
    for taken in agreed.inputs:
        lines += [
            f"input: {taken.name} {taken.dtype} {tuple(taken.shape)}",
            _layout_line(taken),
            f"  {taken.meaning}",
        ]
    for given in agreed.outputs:
        unit = f" [{given.unit}]" if given.unit else ""
        lines += [
            f"output: {given.name} {given.dtype} {tuple(given.shape)}{unit}",
            f"  layout {given.layout}, values {range_text(given.range)}",
            f"  {given.meaning}",
        ]
        if given.classes:
            lines.append("  " + ", ".join(f"{i} {name}" for i, name in given.classes.items()))
    return [one_line(line) for line in lines]


def _layout_line(taken: Input) -> str:
    layout = f"layout {taken.layout}, " if taken.layout else ""
    colours = f"colours {taken.color}, " if taken.color else ""
    return f"  {layout}{colours}values {range_text(taken.range)}"


def one_line(text: str) -> str:
    """Return `text` with spaces in place of line breaks and of all that cannot be printed."""
    return "".join(c if c.isprintable() else " " for c in text)


def fit_text(fit: Fit, pad: float | None = None) -> str:
    """Return the rule by which an image becomes the input, in sentences.

    Args:
        fit: The rule.
        pad: A map's value where the image has none; a picture has None.
    """
    size = f"{fit.width} x {fit.height} pixels (width x height)"
    resize = "Pillow's bilinear filter, which averages where the image shrinks"
    if pad is not None:
        resize = "the nearest pixel"
    if fit.mode == "stretch":
        return f"Resize the image to {size} with {resize}. The aspect ratio may change."
    if fit.mode == "crop":
        return (
            f"Cut the largest window of the proportions {fit.width}:{fit.height} out of the middle "
            f"of the image, and resize it to {size} with {resize}. Maps cover this window only."
        )
    red, green, blue = fit.pad
    rest = f"RGB ({red}, {green}, {blue})" if pad is None else f"{pad:g}"
    return (
        f"Resize the image to fit inside {size}, aspect ratio kept, with {resize}. Centre it and "
        f"fill the rest with {rest}. Maps cover the filled input: cut the "
        "same area out of them."
    )


def range_text(bounds: tuple[float | None, float | None]) -> str:
    """Return bounds as `0 to 255`, `0 or more` or `any`."""
    low, high = bounds
    if low is None:
        return "any"
    return f"{low} or more" if high is None else f"{low} to {high}"


def _inputs(manifest: Manifest) -> tuple[Input, ...]:
    first, *others = manifest.inputs
    network, fit = manifest.network, manifest.fit
    batch = network.batch
    images = "One image" if batch == 1 else f"{batch} images, each with maps of its own"
    if network.takes_map:
        described = [_map_in_its_place(first, fit, network)]
    else:
        meaning = f"{images}. Normalisation is inside the graph: give plain bytes. {fit_text(fit)}"
        described = [_image(first, fit, meaning)]
    for tensor, spec in zip(others, manifest.network.inputs, strict=True):
        described.append(_other(tensor, spec, fit))
    return tuple(described)


def _image(tensor: TensorSpec, fit: Fit, meaning: str) -> Input:
    parts = (tensor.name, tensor.dtype, tensor.shape, "image", "NHWC", "RGB")
    return Input(*parts, (0, 255), fit, meaning)


def _map_in_its_place(tensor: TensorSpec, fit: Fit, network: NetworkSpec) -> Input:
    """The first input of a network that takes no picture."""
    what = "Depth" if network.color == "depth" else "Numbers"
    unit = f" in {network.unit}" if network.unit else ""
    each = "" if network.batch == 1 else f" of {network.batch} cameras, each with maps of its own"
    meaning = (
        f"{what}{unit}{each}. Normalisation is inside the graph: give the values as they are, and "
        f"{network.pad:g} where there is none. {fit_text(fit, network.pad)}"
    )
    parts = (tensor.name, tensor.dtype, tensor.shape, "map", "NCHW", "")
    return Input(*parts, (None, None), fit, meaning)


def _other(tensor: TensorSpec, spec: InputSpec, fit: Fit) -> Input:
    if spec.kind == "image":
        meaning = "A further image of the same moment, fitted as the first. Give plain bytes."
        return _image(tensor, fit, meaning)
    unit = f" in {spec.unit}" if spec.unit else ""
    meaning = {
        "map": f"Values{unit} that lie under the image's pixels: the nearest of the map as it "
        f"came, and {spec.pad:g} where the image has none.",
        "intrinsics": "The camera matrix of the fitted image. Pixel centres have whole "
        "coordinates, as in OpenCV.",
        "tensor": "Passed on to the network as it is.",
        "state": f"Zeros at first, and then what the call before gave as {spec.output}.",
    }[spec.kind]
    aligned = fit if spec.kind == "map" else None
    parts = (tensor.name, tensor.dtype, tensor.shape, spec.kind, "", "")
    return Input(*parts, (None, None), aligned, meaning)


def _map(tensor: TensorSpec, task: TaskSpec) -> Output:
    decode = DECODES[task.decode]
    bounds: tuple[float | None, float | None] = (0, task.num_channels - 1)
    if not task.has_labels:
        bounds = low, high = decode.range
        if task.scale != 1 and high is not None:
            bounds = low, high * task.scale
    meaning = decode.meaning
    if about := _description(task):
        meaning = f"{about} {meaning}"
    layout = "NHWC" if task.components else "NHW"
    is_scaled = task.scale != 1
    return _output(
        tensor,
        task,
        layout="" if task.is_raw else layout,
        range=bounds,
        kind="numbers" if task.is_raw or is_scaled else KINDS.get(look(task), "numbers"),
        meaning=meaning + (f" It is multiplied by {task.scale:g}." if is_scaled else ""),
        classes=dict(enumerate(task.classes)),
    )


def _logits(tensor: TensorSpec, task: TaskSpec) -> Output:
    classes = dict(enumerate(task.classes)) if DECODES[task.decode].values == "labels" else {}
    bounds = (None, None)
    return _output(
        tensor, task, layout="NCHW", range=bounds, kind="logits", meaning=LOGITS, classes=classes
    )


def _output(tensor: TensorSpec, task: TaskSpec, **values: Any) -> Output:
    return Output(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        unit=tensor.unit,
        task=task.name,
        stride=task.stride,
        **values,
    )


def _description(task: TaskSpec) -> str:
    """The first line of the file that defines the task; empty where this machine has no such file.

    A network may decode a task in another way than the file says; then the line does not apply.
    """
    if task.name not in tasks.names():
        return ""
    module = registry.find(tasks.__name__, task.name)
    if module.TASK.decode != task.decode or module.TASK.unit != task.unit:
        return ""
    return (module.__doc__ or "").strip().partition("\n")[0]
