"""The definition of a task: its channels, its unit and how its logits become a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from degmix_edge.errors import ConfigError
from degmix_edge.tasks._decodes import DECODES, DecodeName
from degmix_edge.tasks._palette import Family, palette
from degmix_edge.tensors import TensorSpec

BYTE_LABELS, MOST_LABELS = 256, 65535
"""Classes of a map with one byte a pixel, and with two, whose last label means no class."""
_Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class Task:
    """A kind of prediction, independent of data set and network.

    Attributes:
        name: The name of the file.
        title: The name that is shown to people.
        decode: How logits become the map: an entry of `DECODES`.
        num_channels: Number of logit channels, or None if it is the data set's number of classes,
            or the network's own number.
        unit: Unit of the map's values.
        metric: Entry of `degmix_edge.metrics` that scores the map.
        classes: Default class names, if the task itself determines them.
        family: The family of its classes' colours.
    """

    name: str
    title: str
    decode: DecodeName
    num_channels: int | None
    unit: str
    metric: str
    classes: tuple[str, ...] = ()
    family: Family = "objects"

    def spec(self, classes: Sequence[str] = ()) -> TaskSpec:
        """Return this task with the class names on which a network was trained.

        Raises:
            ConfigError: The task needs class names, and fewer than two are given.
        """
        classes = tuple(classes) or self.classes
        has_labels = DECODES[self.decode].values == "labels"
        if self.num_channels is None and has_labels and len(classes) < 2:
            raise ConfigError(
                f"task {self.name!r}: got {len(classes)} class names, expected at least 2; "
                f"give `classes` in the model's config"
            )
        return TaskSpec(
            name=self.name,
            decode=self.decode,
            num_channels=self.num_channels or len(classes) or 1,
            unit=self.unit,
            metric=self.metric,
            classes=classes,
            palette=palette(classes, self.family),
        )


class TaskSpec(BaseModel):
    """A task of one network, as a checkpoint and a bundle's manifest store it.

    Attributes:
        name: What the network's author calls the map.
        decode: How the output becomes the map: an entry of `DECODES`.
        num_channels: Channels of the logits; of `labels`, the number of classes.
        unit: Unit of the map's values.
        metric: Entry of `degmix_edge.metrics`.
        classes, palette: Name and RGB colour of each class; empty where there are none.
        scale: The values are multiplied by it, so that they have the unit.
        stride: Pixels of the input for one of the map. At 1, smaller logits are resized.
        output: The network's own name of the tensor; empty where it is called after the task.
        channels: First channel of the tensor, and the one behind the last; None takes all.
        channels_last: The tensor is `(N, H, W, C)`.
        shape, dtype: What a `raw` output has, which is no map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\w[\w.-]{0,63}$")  # it is part of the names of files
    decode: DecodeName
    num_channels: int = Field(gt=0)
    unit: str
    metric: str
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...] = ()
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    stride: Annotated[int, Field(ge=1, le=256)] = 1
    output: str = ""
    channels: tuple[int, int] | None = None
    channels_last: bool = False
    shape: tuple[int, ...] = ()
    dtype: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} colours for {len(self.classes)} classes")
        if self.decode != "labels":
            expected = DECODES[self.decode].channels or self.num_channels
            if self.num_channels != expected:
                raise ValueError(f"{self.num_channels} channels, {self.decode} takes {expected}")
        if len(self.classes) not in (0, self.num_channels):
            raise ValueError(f"{self.num_channels} channels for {len(self.classes)} classes")
        if self.has_labels and self.num_channels > MOST_LABELS:
            raise ValueError(f"{self.num_channels} classes, expected at most {MOST_LABELS}")
        if (self.scale != 1 and self.has_labels) or (self.is_raw != bool(self.dtype)):
            raise ValueError(f"{self.decode} has no scale, and only raw has a shape and a dtype")
        if self.channels and self.channels[1] - self.channels[0] != self.logits_channels:
            raise ValueError(f"channels {self.channels}, expected {self.logits_channels} of them")
        return self

    @property
    def has_labels(self) -> bool:
        """Whether a pixel of the map is a class index."""
        return DECODES[self.decode].values == "labels"

    @property
    def is_raw(self) -> bool:
        """Whether the output is a tensor of any kind, and no map."""
        return self.decode == "raw"

    @property
    def has_logits(self) -> bool:
        """Whether the network gives something else than the map itself."""
        return self.decode not in ("labels", "raw")

    @property
    def logits_channels(self) -> int:
        """Channels of the network's own output."""
        return 1 if self.decode == "labels" else self.num_channels

    @property
    def components(self) -> int:
        """Numbers of a pixel that has several, in the map's last axis; 0 where there is none."""
        decode = DECODES[self.decode]
        several = self.num_channels > 1 and decode.channels is None and decode.values == "numbers"
        return self.num_channels if decode.keeps_channels or several else 0

    def map_spec(self, height: int, width: int, batch: int = 1) -> TensorSpec:
        """Return the spec of the decoded map.

        It is `(N, H, W)`, or `(N, H, W, C)` where a pixel has several numbers, each side divided by
        the stride; of a `raw` output, what the network gives.
        """
        if self.is_raw:
            return TensorSpec(name=self.name, dtype=self.dtype, shape=self.shape, unit=self.unit)
        last = (self.components,) if self.components else ()
        dtype = "float32"
        if self.has_labels:
            dtype = "uint8" if self.num_channels <= BYTE_LABELS else "uint16"
        shape = (batch, *self.sides(height, width), *last)
        return TensorSpec(name=self.name, dtype=dtype, shape=shape, unit=self.unit)

    def logits_spec(self, height: int, width: int, batch: int = 1) -> TensorSpec:
        """Return the spec of the raw logits at the map's size: `(N, C, H, W)` float32."""
        shape = (batch, self.num_channels, *self.sides(height, width))
        return TensorSpec(name=logits_name(self.name), dtype="float32", shape=shape)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Return the map's height and width for an input of these, in pixels."""
        return -(-height // self.stride), -(-width // self.stride)


def logits_name(task: str) -> str:
    """Return the tensor name of a task's raw logits at image size."""
    return f"{task}_logits"


def decode(logits: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """Convert logits `(N, C, H, W)` to the map that `spec.map_spec` describes, batch first."""
    values = DECODES[spec.decode].run(logits)
    if spec.has_labels:
        return np.asarray(values, spec.map_spec(1, 1).dtype)
    return np.asarray(values if spec.scale == 1 else values * np.float32(spec.scale))
