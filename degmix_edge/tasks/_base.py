"""The definition of a task: its channels, its unit and how its logits become a map.

Five decodes cover the tasks of the field. Each has three implementations, and tests check that they
agree: the slow and obvious reference in numpy is here, `passes/decode_tasks.py` builds it from ONNX
nodes, and `backends/torch_eager.py` uses torch.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from degmix_edge.errors import ConfigError
from degmix_edge.tensors import TensorSpec

Decode = Literal["argmax", "foreground", "sigmoid", "clamp", "unit_vector"]
DECODES: tuple[Decode, ...] = ("argmax", "foreground", "sigmoid", "clamp", "unit_vector")
CHANNELS = {"foreground": 2, "sigmoid": 1, "clamp": 1, "unit_vector": 3}
"""Channels of logits that each decode takes; `argmax` takes one for each class."""
MOST_LABELS = 256
"""A class map has one byte a pixel."""
_Byte = Annotated[int, Field(ge=0, le=255)]
EPSILON = 1e-6
"""Smallest length that a vector is divided by, so that a zero vector stays zero and not NaN."""


@dataclass(frozen=True)
class Task:
    """A kind of prediction, independent of data set and network.

    Attributes:
        name: The name of the file.
        title: The name that is shown to people.
        decode: How logits `(N, C, H, W)` become the map, as the function `decode` defines it.
        num_channels: Number of logit channels, or None if it is the data set's number of classes.
        unit: Unit of the map's values.
        metric: Entry of `degmix_edge.metrics` that scores the map.
        classes: Default class names, if the task itself determines them.
    """

    name: str
    title: str
    decode: Decode
    num_channels: int | None
    unit: str
    metric: str
    classes: tuple[str, ...] = ()

    def spec(self, classes: Sequence[str] = ()) -> TaskSpec:
        """Return this task with the class names on which a network was trained.

        Raises:
            ConfigError: The task needs class names, and fewer than two are given.
        """
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
    """A task of one network, as a checkpoint and a bundle's manifest store it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\w[\w.-]{0,63}$")  # it is part of the names of files
    decode: Decode
    num_channels: int = Field(gt=0)
    unit: str
    metric: str
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} colours for {len(self.classes)} classes")
        expected = CHANNELS.get(self.decode, self.num_channels)
        if self.num_channels != expected:
            raise ValueError(f"{self.num_channels} channels, {self.decode} takes {expected}")
        if len(self.classes) not in (0, self.num_channels):
            raise ValueError(f"{self.num_channels} channels for {len(self.classes)} classes")
        if self.decode == "argmax" and self.num_channels > MOST_LABELS:
            raise ValueError(
                f"{self.num_channels} classes, expected at most {MOST_LABELS}: a class map is uint8"
            )
        return self

    def map_spec(self, height: int, width: int, batch: int = 1) -> TensorSpec:
        """Return the spec of the decoded map: `(N, H, W)`, or `(N, H, W, 3)` for vectors."""
        shape = (batch, height, width) + ((3,) if self.decode == "unit_vector" else ())
        dtype = "uint8" if self.decode == "argmax" else "float32"
        return TensorSpec(name=self.name, dtype=dtype, shape=shape, unit=self.unit)

    def logits_spec(self, height: int, width: int, batch: int = 1) -> TensorSpec:
        """Return the spec of the raw logits at image size: `(N, C, H, W)` float32."""
        shape = (batch, self.num_channels, height, width)
        return TensorSpec(name=logits_name(self.name), dtype="float32", shape=shape)


def logits_name(task: str) -> str:
    """Return the tensor name of a task's raw logits at image size."""
    return f"{task}_logits"


def decode(logits: np.ndarray, kind: Decode) -> np.ndarray:
    """Convert logits `(N, C, H, W)` to the map `(N, H, W)`, or `(N, H, W, 3)` for `unit_vector`.

    `argmax` gives the index of the largest channel as uint8, and of equal ones the first.
    `foreground` gives the second channel's probability by a softmax over two channels. `sigmoid`
    gives the sigmoid of the only channel. `clamp` replaces negative metres by zero. `unit_vector`
    divides by the length and puts channels last.
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
    """Return one distinct colour per class: golden-angle hues with three levels of brightness.

    The same classes always have the same colours. A first class called `background` is black.
    """
    colours = [_colour(index) for index in range(len(classes))]
    if classes and classes[0] == "background":
        colours[0] = (0, 0, 0)
    return tuple(colours)


def _colour(index: int) -> tuple[int, int, int]:
    hue, value, saturation = (index * 0.61803398875) % 1.0, (0.95, 0.7, 0.5)[index % 3], 0.65
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
