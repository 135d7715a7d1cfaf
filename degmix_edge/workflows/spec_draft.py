"""A first draft of the spec of another program's network, from the names and shapes of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from degmix_edge import tasks as all_tasks
from degmix_edge.errors import ConfigError
from degmix_edge.graph.layout import CHANNELS, is_channels_last
from degmix_edge.graph.spec import tensor_of
from degmix_edge.graph.spec_file import SPEC_KEY
from degmix_edge.network import METADATA_KEY
from degmix_edge.tensors import TensorSpec

GUESSED = "# guessed: check it"
_WORDS = {
    "uncertainty": ("var", "uncert", "sigma"),
    "confidence": ("conf", "trust"),
    "inverse_depth": ("disp", "inv"),
    "depth": ("depth", "dist"),
    "normals": ("normal",),
    "flow": ("flow", "motion"),
    "heatmap": ("heat", "cent", "keypoint"),
    "embedding": ("embed", "feat"),
    "edge": ("edge", "bound"),
    "saliency": ("sal",),
    "human_parts": ("part",),
    "raw": ("box", "score", "anchor"),
    "mask": ("lane", "mask", "drivable", "road", "free"),
    "semseg": ("seg", "class", "label", "logit"),
}
"""Parts of names that say a kind; the first that fits in channels too counts."""
_STATES = ("state", "hidden", "memory", "prev", "past", "cell")
"""Parts of names of inputs that come from the call before."""
_KINDS_OF_INPUT = {
    "image": "or map; normalised as the image where nothing else is said",
    "map": "aligned with the image pixel by pixel, such as depth",
    "intrinsics": "the camera matrix, which moves with the image",
    "tensor": "passed on as it is; or intrinsics, or state with an output",
    "state": "what the call before gave",
}
_COLOURS = {"depth": ("depth", "range", "dist", "disp"), "other": ("therm", "temp", "infra")}
"""Parts of names of a first input that is no picture."""
_OWN_NAMES = ("raw", "mask", "multi_label", "heatmap", "embedding", "confidence", "uncertainty")
"""Kinds of which a network may have several, so that maps are called after their outputs."""


@dataclass(frozen=True)
class Draft:
    """A spec to be completed.

    Attributes:
        text: YAML with comments; what was guessed is marked, and what has to be said is empty.
        guessed: The fields that were guessed.
        missing: The fields that nothing tells.
    """

    text: str
    guessed: tuple[str, ...]
    missing: tuple[str, ...]


def draft_spec(path: str | Path) -> Draft:
    """Draft the spec of an ONNX file from its names and shapes.

    Raises:
        GraphError: The file cannot be read.
        ConfigError: It describes itself, as networks of ours do, or has no input.
    """
    from degmix_edge.graph.model import read_model

    path = Path(path)
    model = read_model(path)
    if any(prop.key in (METADATA_KEY, SPEC_KEY) for prop in model.metadata_props):
        raise ConfigError(f"{path}: describes itself; `degmix-edge inspect {path}` shows how")
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [tensor_of(value) for value in model.graph.input if value.name not in weights]
    images = [tensor for tensor in inputs if _channels_of(tensor) == 3]
    images += [tensor for tensor in inputs if len(tensor.shape) == 4] or inputs
    if not images:
        raise ConfigError(f"{path}: has no input")
    outputs = [tensor_of(value) for value in model.graph.output]
    writer = _Writer()
    writer.input(images[0])
    writer.others([tensor for tensor in inputs if tensor is not images[0]], images[0], outputs)
    writer.line("tasks:")
    for output in outputs:
        writer.task(output)
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    head = [
        f"# How degmix-edge is to read {path.name}: opset {opsets}.",
        f"# Build with: degmix-edge build engine {path.name} --spec THIS_FILE --calib photos/",
        "# Look first: degmix-edge spec check (what the network sees, and what it says).",
        "version: 1",
        f"model: {path.stem}",
    ]
    text = "\n".join([*head, *writer.lines]) + "\n"
    return Draft(text, tuple(writer.guessed), tuple(writer.missing))


class _Writer:
    """Lines of YAML, and what had to be guessed for them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.guessed: list[str] = []
        self.missing: list[str] = []
        self._names: set[str] = set()
        self._states: set[str] = set()

    def line(self, text: str, note: str = "") -> None:
        self.lines.append(f"{text}  {note}" if note else text)

    def _guess(self, field: str, text: str, note: str = "") -> None:
        self.guessed.append(field)
        self.line(text, f"{GUESSED}{'; ' + note if note else ''}")

    def _ask(self, field: str, text: str) -> None:
        self.missing.append(field)
        self.line(text)

    def others(
        self, tensors: Sequence[TensorSpec], image: TensorSpec, outputs: Sequence[TensorSpec]
    ) -> None:
        if tensors:
            self.line("inputs:  # what frames have beside the image")
        for tensor in tensors:
            state = _next_state(tensor, outputs)
            kind = "state" if state else _kind_of_input(tensor, image)
            name = _own_name(tensor)
            self.line(f"  {name}:", f"# {tensor.dtype} {tensor.shape}")
            self.line(f"    tensor: {tensor.name!r}")
            self._guess(f"inputs.{name}.kind", f"    kind: {kind}", _KINDS_OF_INPUT[kind])
            if state:
                self._guess(f"inputs.{name}.output", f"    output: {_own_name(state)}")
                self._states.add(state.name)
            if kind == "map":
                self._ask(f"inputs.{name}.unit", "    # unit: m")
                self.line("    # mean: 0  # in that unit, and scale is multiplied first")

    def input(self, image: TensorSpec) -> None:
        shape = (*image.shape, None, None, None, None)[:4]
        is_last = is_channels_last(shape)
        channels, sides = (shape[3], shape[1:3]) if is_last else (shape[1], shape[2:])
        self.line("input:")
        self.line(f"  tensor: {image.name!r}", f"# {image.dtype} {image.shape}")
        for name, side in zip(("height", "width"), sides, strict=True):
            if side is None:
                self._ask(f"input.{name}", f"  # {name}: 480  # the file leaves it open")
            else:
                self.line(f"  {name}: {side}")
        color = _color(image.name, channels)
        if color is None:
            self._ask("input.color", "  # color: rgb  # rgb or bgr (OpenCV): nothing tells")
        else:
            self._guess("input.color", f"  color: {color}", "or grey, depth, other")
        self.line("  # How its training code prepares an image; nothing in the file tells.")
        if color in ("depth", "other"):
            self._normalised_map(channels or 1)
        else:
            self.line("  # As on ImageNet: mean 0.485 0.456 0.406, std 0.229 0.224 0.225, scale 1.")
            self.line("  # Plain 0..255: mean 0, std 1, scale 255.")
            example = {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}
            for name in ("mean", "std", "scale"):
                self._ask(f"input.{name}", f"  # {name}: {example.get(name, '1')}")
        note = "letterbox pads, stretch changes proportions, crop cuts off borders"
        self._guess("input.fit", "  fit: letterbox", note)

    def _normalised_map(self, channels: int) -> None:
        self.line(
            "  # Values times scale, minus mean, by std. Plain values: scale 1, mean 0, std 1."
        )
        self._ask("input.unit", "  # unit: mm  # as your files and sensors have it")
        for name, number in (("scale", "0.001"), ("mean", "0"), ("std", "1")):
            each = f"[{', '.join([number] * channels)}]"
            is_one = name == "scale" or channels == 1
            self._ask(f"input.{name}", f"  # {name}: {number if is_one else each}")
        self.line("  # pad: 0  # the value where there is none, in your unit")

    def task(self, tensor: TensorSpec) -> None:
        is_last = _is_channels_last(tensor)
        channels = None
        if len(tensor.shape) in (3, 4):
            channels = 1 if len(tensor.shape) == 3 else tensor.shape[3 if is_last else 1]
        kind = "raw" if tensor.name in self._states else _kind(tensor, channels)
        own = _own_name(tensor)
        name = own if kind in self._names or kind in _OWN_NAMES else kind
        self._names.add(name)
        task, place = all_tasks.find(kind), f"tasks.{name}"
        self.line(f"  {name}:", f"# {tensor.dtype} {tensor.shape}")
        self.line(f"    output: {tensor.name!r}")
        self._guess(f"{place}.kind", f"    kind: {kind}")
        if is_last:
            self._guess(f"{place}.channels_last", "    channels_last: true")
        if kind == "raw":
            return
        integer = not tensor.dtype.startswith("float")
        if task.decode == "argmax" and integer and not task.classes:
            self._ask(f"{place}.classes", "    # classes: 19  # class indices: names, or how many")
        elif kind in ("semseg", "human_parts", "multi_label", "heatmap") and not integer:
            self.line(f"    classes: {channels}", "# or names: [road, sidewalk]")
        self._guess(f"{place}.unit", f"    unit: {task.unit!r}")


def _color(name: str, channels: int | None) -> str | None:
    """The kind of the first input, by its channels and its name; None where nothing tells."""
    words = [kind for kind, parts in _COLOURS.items() if any(p in name.lower() for p in parts)]
    if channels in (1, None):
        return words[0] if words else "grey" if channels else None
    return None if channels == 3 else "other"


def _own_name(tensor: TensorSpec) -> str:
    """A name of the spec for a tensor: letters, digits and underscores."""
    return "".join(c if c.isalnum() else "_" for c in tensor.name).strip("_") or "tensor"


def _channels_of(tensor: TensorSpec) -> int | None:
    """Channels of an image; None of another tensor."""
    if len(tensor.shape) != 4:
        return None
    first, last = tensor.shape[1], tensor.shape[3]
    return first if first in CHANNELS else last if last in CHANNELS else None


def _kind_of_input(tensor: TensorSpec, image: TensorSpec) -> str:
    sides = [side for side in image.shape[2:] if side is not None]
    if _channels_of(tensor) == 3:
        return "image"
    if tensor.shape[-2:] == (3, 3):
        return "intrinsics"
    is_large = len(tensor.shape) in (3, 4) and None in tensor.shape[-2:]
    return "map" if is_large or (sides and [*tensor.shape[-2:]] == sides) else "tensor"


def _next_state(tensor: TensorSpec, outputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The output that has the type and the shape of an input, and no other meaning by its name."""
    if not any(word in tensor.name.lower() for word in _STATES) or None in tensor.shape:
        return None
    alike = [o for o in outputs if (o.dtype, o.shape) == (tensor.dtype, tensor.shape)]
    return alike[0] if len(alike) == 1 else None


def _is_channels_last(tensor: TensorSpec) -> bool:
    """Whether the last side of four is the small one."""
    sides = [side or 0 for side in tensor.shape]
    return len(sides) == 4 and 0 < sides[3] < min(sides[1:3]) and sides[1] > 3


def _kind(tensor: TensorSpec, channels: int | None) -> str:
    """The kind of task whose name and channels fit an output best."""
    if channels is None:
        return "raw"
    name = tensor.name.lower()
    if not tensor.dtype.startswith("float"):
        return "human_parts" if "part" in name else "semseg"
    for kind, words in _WORDS.items():
        own = all_tasks.find(kind).num_channels
        fits = channels > 1 if kind in ("semseg", "human_parts") else own in (None, channels)
        if fits and any(word in name for word in words):
            return kind
    return {1: "mask", 2: "saliency"}.get(channels, "semseg")
