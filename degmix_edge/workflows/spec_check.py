"""What a spec makes of a network: run as the spec says, on one image, with what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.backends.onnx_reference import Backend as OnnxReference
from degmix_edge.files import write_file
from degmix_edge.graph.spec import network_spec
from degmix_edge.graph.spec_file import SPEC_KEY, read_spec
from degmix_edge.network import IMAGE, NetworkSpec, as_network_takes
from degmix_edge.preprocess import normalise
from degmix_edge.report.text import Doubt, Readable, TextTable
from degmix_edge.runtime import Maps, Session
from degmix_edge.runtime.frames import Frame, fit_frame
from degmix_edge.tasks import TaskSpec, false_colour, logits_name
from degmix_edge.tasks._decodes import EPSILON
from degmix_edge.workflows.frame_folders import frame_paths, needed_inputs
from degmix_edge.workflows.networks import in_words, read_network
from degmix_edge.workflows.options import Options, make_options


@dataclass(frozen=True)
class Checked(Readable):
    """What a spec makes of a network on one image.

    Attributes:
        network: What the network is taken to be, in words.
        sees: What the network is given, uint8 RGB `(H, W, 3)`; depth and other numbers in false
            colours.
        maps: What it says.
        numbers: A line for each map.
        doubts: What looks wrong; each says what to change.
    """

    network: str
    sees: np.ndarray
    maps: Maps
    numbers: dict[str, str]
    doubts: tuple[str, ...]

    def text(self) -> Iterator[str | TextTable]:
        """Yield what the network is taken to be, a line for each map, and the doubts."""
        yield self.network
        yield TextTable("maps", ["task", "values"], list(self.numbers.items()))
        yield from map(Doubt, self.doubts)


def check_spec(
    path: str | Path, frame: Frame, *, options: Options | None = None, **changes: Any
) -> Checked:
    """Run an ONNX file as its spec says, in ONNX Runtime and numpy, on one image.

    Args:
        path: The ONNX file.
        frame: The image, or what the network takes by the names of its inputs; or a folder of
            frames, of which the first is taken.
        options: `spec` and the fields that override it; `changes` override these.
        **changes: Fields of `Options`.

    Raises:
        ConfigError: The spec is incomplete, or does not fit the graph.
        GraphError, InputError: The file or the image cannot be read.
    """
    settings = make_options(options, None, None, changes)
    settings.check_one_size("a drawing of what a network sees")
    read = read_network(Path(path), describe=settings.describe)
    model = read.original or read.model
    backend = OnnxReference(read.spec, model.SerializeToString(), raw_logits=True)
    if needed_inputs(read.spec) and isinstance(frame, str | Path):
        frame = next(iter(frame_paths(Path(frame), read.spec).values()))
    with Session(backend, read.fit) as session:
        maps = session(frame)
        feed, _ = fit_frame(frame, read.fit, read.spec)
        tensors = backend.infer(feed)
    sees = feed[IMAGE][0]
    doubts = _input_doubts(feed[IMAGE], read.spec)
    if read.spec.takes_map:
        sees = false_colour(np.moveaxis(sees, 0, -1))
    for task in read.spec.tasks:
        doubts += _doubts(task, tensors)
    numbers = {name: _numbers(one, one.spec) for name, one in maps.items()}
    return Checked(in_words(read.spec, read.fit), sees, maps, numbers, tuple(doubts))


def _input_doubts(image: np.ndarray, spec: NetworkSpec) -> list[str]:
    first = spec.image
    is_map = first.kind == "map"
    if is_map and (image == image.flat[0]).all():
        return [f"input: is {image.flat[0]:g} everywhere; check the file, its unit and pad"]
    values = (
        as_network_takes(image, first)
        if is_map
        else normalise(image, first.mean, first.std, first.color)
    )
    low, high = float(values.min()), float(values.max())
    if -10 < low and high < 10:
        return []
    if high > 100 and not is_map:  # a network of 0..255 is rare, but there are some
        return [f"input: the network sees {low:.3g}..{high:.3g}; is it one that takes 0..255?"]
    what = "mean, std and scale" if is_map else "mean and std"
    return [f"input: the network sees {low:.3g}..{high:.3g}, most take -3..3; check {what}"]


def _doubts(task: TaskSpec, tensors: dict[str, np.ndarray]) -> list[str]:
    values, name = tensors[task.name], task.name
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return [f"{name}: has values that are not finite; check the input's mean and std"]
    if values.size > 1 and (values == values.flat[0]).all():
        return [f"{name}: is {values.flat[0]} everywhere; check the decode and the input"]
    if task.has_labels:
        _, counts = np.unique(values, return_counts=True)
        share = counts.max() / values.size
        return [f"{name}: one class has {100 * share:.1f} % of the image"] if share > 0.99 else []
    logits = tensors.get(logits_name(name))
    if logits is None:
        return []
    if task.decode == "sigmoid" and 0 <= logits.min() and logits.max() <= 1:
        return [f"{name}: is 0..1 before its sigmoid; if it is decoded already, decode: identity"]
    if task.decode == "reciprocal" and (logits <= EPSILON).any():
        share = 100 * (logits <= EPSILON).mean()
        return [f"{name}: {share:.0f} % of the inverse depth is not above zero; check its kind"]
    if task.decode == "clamp" and (logits < 0).mean() > 0.5:
        return [
            f"{name}: {100 * (logits < 0).mean():.0f} % is below zero; kind: log_depth or "
            "inverse_depth may be meant"
        ]
    return []


def _numbers(array: np.ndarray, task: TaskSpec) -> str:
    values = np.asarray(array)
    if task.has_labels:
        labels, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts)[:3]
        names = task.classes or tuple(f"class {i}" for i in range(task.num_channels))
        return ", ".join(f"{names[labels[i]]} {100 * counts[i] / values.size:.1f} %" for i in order)
    unit = f" {task.unit}" if task.unit else ""
    spread = f"{values.min():.4g}..{values.max():.4g}, mean {values.mean():.4g}{unit}"
    return f"{values.dtype} {values.shape}, {spread}" if task.is_raw else spread


def embed_spec(path: str | Path, spec: str | Path, out: str | Path, *, force: bool = False) -> None:
    """Write an ONNX file with its spec inside, so that it describes itself.

    Raises:
        ConfigError: The spec cannot be read, or does not fit the file.
        OutputError: `out` exists without `force`, or cannot be written.
    """
    from degmix_edge.graph.model import read_model

    model, spec = read_model(Path(path)), Path(spec)
    network_spec(model, Path(path), b"", read_spec(spec))
    kept = {p.key: p.value for p in model.metadata_props} | {SPEC_KEY: spec.read_text()}
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)
    write_file(Path(out), model.SerializeToString(), force=force)
