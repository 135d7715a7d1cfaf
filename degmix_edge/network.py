"""What a network promises: input size, normalisation, tasks. ONNX files and bundles store it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.limits import Side
from degmix_edge.preprocess import MEAN, STD, Color
from degmix_edge.registry import unknown
from degmix_edge.tasks import TaskSpec
from degmix_edge.tensors import TensorSpec

METADATA_KEY = "degmix.network"
IMAGE = "image"
"""Name of the graph's only input."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Source(Settings):
    """Where the weights come from."""

    name: str
    sha256: str


class Normalisation(Settings):
    """How a network wants its input, which an ONNX file does not say.

    Attributes:
        mean, std: By channel of the network, in the scale of `scale`; one number is for all.
        scale: The value of white before the mean is subtracted: 1, or 255.
        color: Order of the channels.
    """

    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]
    scale: Literal[1, 255] = 1
    color: Color

    @field_validator("mean", "std")
    @classmethod
    def _for_channels(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) not in (1, 3):
            raise ValueError(f"{len(values)} numbers, expected one, or one for each of 3 channels")
        return values

    @model_validator(mode="after")
    def _in_its_scale(self) -> Normalisation:
        if self.color == "grey" and len({*self.mean}) + len({*self.std}) > 2:
            raise ValueError(f"mean {self.mean} and std {self.std} differ, and grey is one channel")
        if self.scale == 1 and max(*self.mean, *self.std) > 2:
            raise ValueError(
                f"mean {self.mean} and std {self.std} look like 0..255, and scale is 1; give scale "
                "255 (--scale 255)"
            )
        return self

    def apply(self, spec: NetworkSpec) -> NetworkSpec:
        """Return `spec` with this normalisation."""
        channels = 1 if self.color == "grey" else 3
        mean, std = (
            tuple(values[i % len(values)] / self.scale for i in range(channels))
            for values in (self.mean, self.std)
        )
        return spec.model_copy(update={"mean": mean, "std": std, "color": self.color})


class NetworkSpec(Settings):
    """A multi-task network of one fixed input size.

    Attributes:
        model: Name of the model.
        height, width: Input size in pixels.
        mean, std: Mean and standard deviation of colours in [0, 1], with which the graph
            normalises, by channel of the network.
        color: Order of the network's channels; a bundle's own input is always RGB.
        tasks: Its outputs, in order.
        source: The checkpoint or ONNX file from which it was exported.
    """

    model: str
    height: Side
    width: Side
    mean: tuple[Finite, ...] = MEAN
    std: tuple[Positive, ...] = STD
    color: Color = "rgb"
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    source: Source

    @field_validator("tasks")
    @classmethod
    def _own_names(cls, tasks: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        names = [task.name for task in tasks]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two tasks are called {twice[0]!r}")
        return tasks

    @model_validator(mode="after")
    def _fits_together(self) -> NetworkSpec:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean {self.mean} and std {self.std} of {self.channels} channels")
        return self

    @property
    def channels(self) -> int:
        """Channels of the network's own input."""
        return 1 if self.color == "grey" else 3

    @property
    def image_spec(self) -> TensorSpec:
        """The input of a finished graph: uint8 RGB, channels last."""
        return TensorSpec(name=IMAGE, dtype="uint8", shape=(1, self.height, self.width, 3))

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(spec.name for spec in self.tasks)

    def task(self, name: str) -> TaskSpec:
        """Return the task called `name`.

        Raises:
            ConfigError: This network does not have the task.
        """
        for spec in self.tasks:
            if spec.name == name:
                return spec
        raise ConfigError(f"network {self.model!r}: " + unknown("task", name, self.task_names))

    def keep(self, names: Sequence[str]) -> NetworkSpec:
        """Return the spec with only the tasks `names`, in the network's order.

        Raises:
            ConfigError: This network does not have one of the tasks.
        """
        selected = {self.task(name).name for name in names}
        specs = tuple(spec for spec in self.tasks if spec.name in selected)
        return self.model_copy(update={"tasks": specs})


def from_metadata(metadata: Mapping[str, str], where: str) -> NetworkSpec | None:
    """Return the spec in an ONNX file's metadata, or None if there is none.

    Args:
        metadata: The file's metadata.
        where: Name of the file, for error messages.

    Raises:
        GraphError: This version cannot read the spec.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        return NetworkSpec.model_validate_json(text)
    except ValidationError as error:
        raise GraphError(f"{where}: metadata {METADATA_KEY!r} does not fit: {error}") from None
