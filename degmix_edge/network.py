"""What a network promises: inputs, normalisation, tasks. ONNX files and bundles store it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
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
"""Name of the graph's first input, which is the only one of most networks. It is a picture, or a
map of numbers where the network takes depth or other channels."""
InputColor: TypeAlias = Color | Literal["depth", "other"]
"""What the channels of the first input are: colours of a picture, depth, or any other numbers."""
InputKind = Literal["image", "map", "intrinsics", "tensor", "state"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_IMAGES = 64
"""Images of one call; a robot has fewer cameras."""


class Source(Settings):
    """Where the weights come from."""

    name: str
    sha256: str


class Normalisation(Settings):
    """How a network wants its input, which an ONNX file does not say.

    Attributes:
        mean, std: By channel of the network, in the scale of `scale`; one number is for all.
        scale: A picture's value of white before the mean is subtracted, 1 or 255. Depth and other
            numbers are multiplied by it first.
        color: Order of the channels, or what else they are.
    """

    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]
    scale: Positive = 1
    color: InputColor

    @model_validator(mode="after")
    def _for_channels(self) -> Normalisation:
        allowed = (1,) if self.color == "depth" else (1, 3)
        more = {"depth": "", "other": ", or one for each channel"}
        for values in (self.mean, self.std):
            if not values or (self.color != "other" and len(values) not in allowed):
                each = more.get(self.color, ", or one for each of 3 channels")
                raise ValueError(f"{len(values)} numbers, expected one{each}")
        return self

    @model_validator(mode="after")
    def _in_its_scale(self) -> Normalisation:
        if self.color in ("depth", "other"):
            return self
        if self.scale not in (1, 255):
            raise ValueError(f"scale {self.scale:g}, expected the value of white, 1 or 255")
        if self.color == "grey" and len({*self.mean}) + len({*self.std}) > 2:
            raise ValueError(f"mean {self.mean} and std {self.std} differ, and grey is one channel")
        if self.scale == 1 and max(*self.mean, *self.std) > 2:
            raise ValueError(
                f"mean {self.mean} and std {self.std} look like 0..255, and scale is 1; give scale "
                "255 (--scale 255)"
            )
        return self

    def apply(self, spec: NetworkSpec) -> NetworkSpec:
        """Return `spec` with this normalisation.

        Raises:
            ConfigError: It has numbers for another count of channels than the network.
        """
        if self.color in ("depth", "other"):
            mean, std = (
                values * spec.channels if len(values) == 1 else values
                for values in (self.mean, self.std)
            )
            for name, values in (("mean", mean), ("std", std)):
                if len(values) != spec.channels:
                    raise ConfigError(
                        f"{spec.model}: {name} {values} is of {len(values)} channels, and the "
                        f"input has {spec.channels}; give one number for each, or one for all"
                    )
            update = {"mean": mean, "std": std, "scale": self.scale, "color": self.color}
            return spec.model_copy(update=update)
        channels = 1 if self.color == "grey" else 3
        mean, std = (
            tuple(values[i % len(values)] / self.scale for i in range(channels))
            for values in (self.mean, self.std)
        )
        return spec.model_copy(update={"mean": mean, "std": std, "color": self.color})


class InputSpec(Settings):
    """An input of a network.

    Attributes:
        name: What frames call it.
        kind: `image` is another picture, such as the right one of a stereo pair, fitted as the
            first is. `map` is aligned with the image pixel by pixel, such as depth, and takes the
            nearest pixel. `intrinsics` is the camera matrix of the image as it came, which moves
            with the image when that is fitted. `tensor` is passed on as it is. `state` starts as
            zeros, and then is what the call before gave as the raw task `output`.
        tensor: The network's own name of it; empty where that is `name`.
        channels: First channel of that tensor, and the one behind the last, where it holds several
            inputs; None is all.
        dtype, shape: The network's own, batch first.
        mean, std: An image has them by channel, as fractions of 255. A map has them in its unit, by
            channel or one number for all.
        color: Order of an image's channels.
        scale: A map's values are multiplied by it before the mean is subtracted.
        unit: Unit of a map's values, as frames have them.
        pad: A map's value where the image has none.
        output: The raw task whose value is the next state.
    """

    name: str = Field(pattern=r"^\w[\w.-]{0,63}$")
    kind: InputKind
    tensor: str = ""
    channels: tuple[int, int] | None = None
    dtype: str = "float32"
    shape: tuple[int, ...]
    mean: tuple[Finite, ...] = ()
    std: tuple[Positive, ...] = ()
    color: Color = "rgb"
    scale: Positive = 1.0
    unit: str = ""
    pad: Finite = 0.0
    output: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> InputSpec:
        if self.kind == "image":
            channels = 1 if self.color == "grey" else 3
            if len(self.shape) != 4 or self.shape[1] != channels:
                raise ValueError(f"shape {self.shape}, expected {channels} channels of an image")
            if not len(self.mean) == len(self.std) == channels:
                raise ValueError(f"mean {self.mean} and std {self.std} of {channels} channels")
        elif self.kind == "map":
            if len(self.shape) not in (3, 4) or self.dtype != "float32":
                raise ValueError(f"{self.dtype} {self.shape}, expected float32 (N, C, H, W)")
            count = {1, self.shape[1] if len(self.shape) == 4 else 1}
            if not {len(self.mean), len(self.std)} <= count:
                raise ValueError(
                    f"mean {self.mean} and std {self.std} of shape {self.shape}, expected one "
                    "number each, or one for each channel"
                )
        elif self.kind == "intrinsics" and self.shape[-2:] != (3, 3):
            raise ValueError(f"shape {self.shape}, expected (N, 3, 3)")
        if (self.kind == "state") != bool(self.output):
            raise ValueError("a state has an output, and other inputs have none")
        return self

    @property
    def graph_tensor(self) -> str:
        """What the adopted graph calls it, in which every input is a tensor of its own."""
        return part_name(self.tensor or self.name, self.channels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image or a map."""
        return self.shape[-2], self.shape[-1]

    @property
    def tensor_spec(self) -> TensorSpec:
        """The input of a finished graph; an image is uint8 RGB, channels last."""
        if self.kind == "image":
            shape = (self.shape[0], *self.size, 3)
            return TensorSpec(name=self.name, dtype="uint8", shape=shape)
        return TensorSpec(name=self.name, dtype=self.dtype, shape=self.shape, unit=self.unit)


def part_name(tensor: str, channels: tuple[int, int] | None) -> str:
    """Return the name of a part of a tensor's channels."""
    return tensor if channels is None else f"{tensor}[{channels[0]}:{channels[1]}]"


def as_network_takes(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return the values of a map as its network takes them; other inputs but images stay."""
    if spec.kind != "map":
        return array
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (spec.mean, spec.std))
    return (array * np.float32(spec.scale) - mean) / std


class NetworkSpec(Settings):
    """A multi-task network of one fixed input size.

    Attributes:
        model: Name of the model.
        height, width: Input size in pixels.
        mean, std: Mean and standard deviation with which the graph normalises, by channel of the
            network: of colours in [0, 1], or of a map in its unit.
        color: Order of the network's channels; a bundle's own input is always RGB. With `depth` or
            `other`, the first input is a map of numbers in the place of a picture.
        scale, unit, pad: What such a map has, as any other one; see `InputSpec`.
        tensor: The network's own name of the image; empty where nothing else can be meant.
        image_channels: Which channels of that tensor are the image; None is all.
        batch: How many images one call computes.
        inputs: What the network takes beside the image, in order.
        tasks: Its outputs, in order.
        source: The checkpoint or ONNX file from which it was exported.
    """

    model: str
    height: Side
    width: Side
    mean: tuple[Finite, ...] = MEAN
    std: tuple[Positive, ...] = STD
    color: InputColor = "rgb"
    scale: Positive = 1.0
    unit: str = ""
    pad: Finite = 0.0
    tensor: str = ""
    image_channels: tuple[int, int] | None = None
    batch: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    inputs: tuple[InputSpec, ...] = ()
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
        names = [IMAGE, *(one.name for one in self.inputs)]
        if len({*names}) < len(names):
            raise ValueError(f"two inputs of {', '.join(names)} have one name")
        if both := {*names} & {*self.task_names}:
            raise ValueError(f"an input and a task are called {both.pop()!r}; rename one of them")
        for one in self.inputs:
            self._check_state(one)
        if self.batch > 1:
            shapes = {one.name: one.shape for one in self.inputs}
            shapes |= {task.name: task.shape for task in self.tasks if task.is_raw}
            for name, shape in shapes.items():
                if shape[:1] != (self.batch,):
                    raise ValueError(f"{name}: shape {shape} does not begin with {self.batch}")
        return self

    def _check_state(self, one: InputSpec) -> None:
        if one.kind != "state":
            return
        made = [(task.dtype, task.shape) for task in self.tasks if task.name == one.output]
        if made != [(one.dtype, one.shape)]:
            raise ValueError(
                f"state {one.name!r}: {one.dtype} {one.shape} comes from the raw task "
                f"{one.output!r} of the same type and shape, and there is no such task"
            )
        if self.batch > 1:
            raise ValueError(f"state {one.name!r}: belongs to one camera; build with a batch of 1")

    @property
    def takes_map(self) -> bool:
        """Whether the first input is a map of numbers, such as depth, and no picture."""
        return self.color in ("depth", "other")

    @property
    def channels(self) -> int:
        """Channels of the network's own first input."""
        if self.color == "other":
            return len(self.mean)
        return 1 if self.color in ("grey", "depth") else 3

    @property
    def image(self) -> InputSpec:
        """The first input, described as the others are."""
        return InputSpec(
            name=IMAGE,
            kind="map" if self.takes_map else "image",
            tensor=self.tensor,
            channels=self.image_channels,
            shape=(self.batch, self.channels, self.height, self.width),
            mean=self.mean,
            std=self.std,
            color="rgb" if self.color == "depth" or self.color == "other" else self.color,
            scale=self.scale,
            unit=self.unit,
            pad=self.pad,
        )

    @property
    def image_spec(self) -> TensorSpec:
        """The first input of a finished graph: uint8 RGB, channels last; or a float32 map."""
        if self.takes_map:
            shape = (self.batch, self.channels, self.height, self.width)
            return TensorSpec(name=IMAGE, dtype="float32", shape=shape, unit=self.unit)
        shape = (self.batch, self.height, self.width, 3)
        return TensorSpec(name=IMAGE, dtype="uint8", shape=shape)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """The inputs of a finished graph, the image first."""
        return (self.image_spec, *(one.tensor_spec for one in self.inputs))

    def row_shape(self, tensor: TensorSpec) -> tuple[int, ...]:
        """The shape of what one image of a batch has of an input or an output."""
        shape = tuple(side or 0 for side in tensor.shape)
        return shape if self.batch == 1 else (1, *shape[1:])

    @property
    def map_specs(self) -> tuple[TensorSpec, ...]:
        """The maps of a finished graph, in the order of the tasks."""
        return tuple(task.map_spec(self.height, self.width, self.batch) for task in self.tasks)

    @property
    def logits_specs(self) -> tuple[TensorSpec, ...]:
        """The logits behind each map, which a finished graph may have as outputs too."""
        return tuple(task.logits_spec(self.height, self.width, self.batch) for task in self.tasks)

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
            ConfigError: This network does not have one of the tasks, or a state needs another.
        """
        selected = {self.task(name).name for name in names}
        specs = tuple(spec for spec in self.tasks if spec.name in selected)
        for one in self.inputs:
            if one.output and one.output not in selected:
                raise ConfigError(
                    f"network {self.model!r}: state {one.name!r} comes from task {one.output!r}; "
                    "keep that task too"
                )
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
