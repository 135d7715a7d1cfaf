"""What a network promises: input size, normalisation, tasks. ONNX files and bundles store it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from degmix_edge import tasks
from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.limits import Side
from degmix_edge.preprocess import MEAN, STD
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


class NetworkSpec(Settings):
    """A multi-task network of one fixed input size.

    Attributes:
        model: Name of the model.
        height, width: Input size in pixels.
        mean, std: Mean and standard deviation of RGB in [0, 1], with which the graph normalises.
        tasks: Its outputs, in order.
        source: The checkpoint or ONNX file from which it was exported.
    """

    model: str
    height: Side
    width: Side
    mean: tuple[Finite, Finite, Finite] = MEAN
    std: tuple[Positive, Positive, Positive] = STD
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
        tasks.find(name)  # an unknown task raises its own error
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
