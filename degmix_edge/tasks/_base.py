"""What a task is: channels, unit, how logits become a map, how a map becomes a picture.

Five decodes cover the tasks of the field. Each is written three times, and tests hold the three
together: here in numpy (slow and obvious, the reference), in `passes/decode_tasks.py` as ONNX
nodes, in `backends/torch_eager.py` in torch.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from degmix_edge.errors import ConfigError
from degmix_edge.tensors import TensorSpec

Decode = Literal["argmax", "foreground", "sigmoid", "clamp", "unit_vector"]
DECODES: tuple[Decode, ...] = ("argmax", "foreground", "sigmoid", "clamp", "unit_vector")
EPSILON = 1e-6
"""Floor of a vector's length before division: a zero vector stays zero instead of NaN."""


@dataclass(frozen=True)
class Task:
    """A kind of prediction, independent of data set and network.

    Attributes:
        name: The file's name.
        title: What people read.
        decode: How logits `(N, C, H, W)` become the map; see `decode`.
        num_channels: Logit channels, or None where the data set's classes give the number.
        unit: Unit of the map's values.
        metric: Entry of `degmix_edge.metrics` that scores it.
        classes: Default class names, where the task itself fixes them.
    """

    name: str
    title: str
    decode: Decode
    num_channels: int | None
    unit: str
    metric: str
    classes: tuple[str, ...] = ()

    def spec(self, classes: Sequence[str] = ()) -> TaskSpec:
        """This task for one network: with the class names it was trained on."""
        classes = tuple(classes) or self.classes
        if self.num_channels is None and len(classes) < 2:
            raise ConfigError(
                f"task {self.name!r}: got {len(classes)} class names, expected at least 2; "
                f"give `classes` in the model's config"
            )
        return TaskSpec(
            name=self.name,
            decode=self.decode,
            num_channels=self.num_channels or len(classes),
            unit=self.unit,
            metric=self.metric,
            classes=classes,
            palette=palette(classes),
        )


class TaskSpec(BaseModel):
    """A task as one network has it. This is what a checkpoint and a bundle's manifest store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    decode: Decode
    num_channels: int
    unit: str
    metric: str
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    @model_validator(mode="after")
    def _one_colour_a_class(self) -> TaskSpec:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} colours for {len(self.classes)} classes")
        return self

    def map_spec(self, height: int, width: int, batch: int = 1) -> TensorSpec:
        """Dtype and shape of the decoded map: `(N, H, W)`, or `(N, H, W, 3)` for vectors."""
        shape = (batch, height, width) + ((3,) if self.decode == "unit_vector" else ())
        dtype = "uint8" if self.decode == "argmax" else "float32"
        return TensorSpec(name=self.name, dtype=dtype, shape=shape, unit=self.unit)

    def logits_spec(self, height: int, width: int, batch: int = 1) -> TensorSpec:
        """Dtype and shape of the raw logits at image size: `(N, C, H, W)` float32."""
        shape = (batch, self.num_channels, height, width)
        return TensorSpec(name=logits_name(self.name), dtype="float32", shape=shape)


def logits_name(task: str) -> str:
    """Tensor name of a task's raw logits at image size."""
    return f"{task}_logits"


def decode(logits: np.ndarray, kind: Decode) -> np.ndarray:
    """Logits `(N, C, H, W)` to the map `(N, H, W)`, or `(N, H, W, 3)` for `unit_vector`.

    argmax: index of the largest channel, uint8; the first of equals. foreground: softmax over two
    channels, the second one's probability. sigmoid: of the one channel. clamp: negative metres are
    zero. unit_vector: divided by its length, channels last.
    """
    if kind == "argmax":
        return np.asarray(np.argmax(logits, axis=1), np.uint8)
    if kind == "foreground":
        return np.asarray(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])))
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits[:, 0])))
    if kind == "clamp":
        return np.asarray(np.maximum(logits[:, 0], 0))
    length = np.sqrt(np.sum(logits * logits, axis=1, keepdims=True))
    return np.moveaxis(logits / np.maximum(length, EPSILON), 1, -1)


def palette(classes: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """Distinct colours, the same everywhere: golden-angle hues in three brightnesses.

    A first class called `background` is black.
    """
    colours = [_colour(index) for index in range(len(classes))]
    if classes and classes[0] == "background":
        colours[0] = (0, 0, 0)
    return tuple(colours)


def _colour(index: int) -> tuple[int, int, int]:
    hue, value, saturation = (index * 0.61803398875) % 1.0, (0.95, 0.7, 0.5)[index % 3], 0.65
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
