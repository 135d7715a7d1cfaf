"""A network described by its user: `spec.yaml`, what flags add to it, and its contents as a model.

Every field may be missing where the ONNX file or the task says it. What neither says is asked for,
and never assumed: how the input is normalised, and the order of its colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from degmix_edge import config
from degmix_edge.errors import ConfigError
from degmix_edge.network import MOST_IMAGES, Finite, InputColor, InputKind, Positive
from degmix_edge.preprocess import MEAN_COLOUR, Byte, Color, Fit, FitMode
from degmix_edge.tasks._decodes import DecodeName

SPEC_KEY = "degmix.spec"
"""Key of an ONNX file's metadata that holds a spec."""


class InputEntry(config.Settings):
    """The image input, or the map of numbers in its place.

    Attributes:
        tensor: Its name in the ONNX file.
        channels: First channel of the tensor, and the one behind the last, where it holds more than
            the image.
        height, width: Pixels; missing is what the file says, and needed where it is dynamic.
        color: Order of the channels: `rgb`, `bgr`, or `grey` for a single one. A network that takes
            no picture has `depth`, or `other` for any number of channels.
        mean, std: By channel of the network, in the scale of `scale`.
        scale: A picture's value of white before the mean is subtracted, 1 or 255; depth and other
            numbers are multiplied by it first.
        unit: Unit of depth and other numbers, as frames have them.
        fit: How images of another aspect ratio are fitted: `letterbox`, `stretch` or `crop`.
        pad: RGB colour of the padding of `letterbox`; of depth and other numbers the value where
            the image has none.
    """

    tensor: str | None = None
    channels: tuple[int, int] | None = None
    height: Annotated[int, Field(gt=0)] | None = None
    width: Annotated[int, Field(gt=0)] | None = None
    color: InputColor | None = None
    mean: tuple[Finite, ...] | None = None
    std: tuple[Positive, ...] | None = None
    scale: Positive | None = None
    unit: str | None = None
    fit: FitMode | None = None
    pad: tuple[Byte, Byte, Byte] | Finite | None = None

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _of_one_kind(self) -> InputEntry:
        if self.color is None:
            return self
        if self.pad is not None and isinstance(self.pad, tuple) == self.takes_map:
            wanted = "a number, as the input has them" if self.takes_map else "an RGB colour"
            raise ValueError(f"pad {self.pad} with color {self.color}, expected {wanted}")
        if self.unit and not self.takes_map:
            raise ValueError(f"unit {self.unit!r} with color {self.color}: a picture has none")
        return self

    @property
    def takes_map(self) -> bool:
        """Whether it is a map of numbers and no picture."""
        return self.color in ("depth", "other")

    @property
    def channels_said(self) -> int | None:
        """How many channels of the network are said; None is any number."""
        if self.color != "other":
            return 1 if self.color in ("grey", "depth") else 3
        return max((len(v) for v in (self.mean, self.std) if v and len(v) > 1), default=None)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where both are said."""
        return (self.height, self.width) if self.height and self.width else None


class OtherEntry(config.Settings):
    """An input beside the image. What is missing is as the network's file says.

    Attributes:
        tensor: Its name in the ONNX file; missing is its name in this spec, which frames use.
        channels: First channel of the tensor, and the one behind the last; missing is all.
        kind: `image` is a second picture, `map` is aligned with the image pixel by pixel,
            `intrinsics` the camera matrix, `tensor` is passed on, `state` is an output of the call
            before.
        color, mean, std: Those of an image are the first image's where they are missing. Those of a
            map are numbers in its unit, and 0 and 1 where they are missing.
        scale: An image's value of white, 1 or 255; a map's values are multiplied by it first.
        unit: Unit of a map's values, as frames have them.
        pad: A map's value where the image has none.
        output: The raw task whose value is the next state.
        shape: The tensor's shape, where the file leaves a side open that is no side of an image.
    """

    tensor: str | None = None
    channels: tuple[int, int] | None = None
    kind: InputKind
    color: Color | None = None
    mean: tuple[Finite, ...] | None = None
    std: tuple[Positive, ...] | None = None
    scale: Positive = 1
    unit: str = ""
    pad: Finite = 0.0
    output: str | None = None
    shape: tuple[Annotated[int, Field(gt=0)], ...] | None = None

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value


class TaskEntry(config.Settings):
    """One map. What is missing is as the kind of task says.

    Attributes:
        output: The tensor's name in the ONNX file; missing is the name of the map.
        kind: Entry of `degmix_edge.tasks`; missing is the name of the map.
        channels: First channel of the tensor, and the one behind the last; missing is all.
        channels_last: The tensor is `(N, H, W, C)`; missing is what the shapes say where the input
            has its channels last too, and else false.
        decode: How the tensor becomes the map.
        unit: Unit of the map's values.
        metric: Entry of `degmix_edge.metrics`.
        classes: Names, or how many there are.
        palette: RGB colour of each class.
        scale: The values are multiplied by it.
        stride: Pixels of the input for one of the map; at 1, smaller tensors are resized.
    """

    output: str | None = None
    kind: str | None = None
    channels: tuple[int, int] | None = None
    channels_last: bool | None = None
    decode: DecodeName | None = None
    unit: str | None = None
    metric: str | None = None
    classes: tuple[str, ...] | Annotated[int, Field(ge=2)] | None = None
    palette: tuple[tuple[Byte, Byte, Byte], ...] | None = None
    scale: Positive | None = None
    stride: Annotated[int, Field(ge=1, le=256)] = 1


class SpecFile(config.Settings):
    """What a `spec.yaml` holds.

    Attributes:
        model: Name of the network; missing is the name of the file.
        input: The image.
        inputs: What the network takes beside it, by the names that frames use.
        batch: How many images one call computes; missing is what the file says, or 1.
        tasks: The maps, by name; empty takes every output of the file.
        outputs: The kind of task of each output that is not called after it, where nothing else
            needs saying.
    """

    model: str | None = None
    input: InputEntry = InputEntry()
    inputs: dict[str, OtherEntry] = {}
    batch: Annotated[int, Field(ge=1, le=MOST_IMAGES)] | None = None
    tasks: dict[str, TaskEntry] = {}
    outputs: dict[str, str] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said that a network of ours says itself."""
        of_all = {"fit", "pad", "height", "width"}
        image = self.input.model_dump(exclude=of_all, exclude_none=True)
        return not (image or self.inputs or self.tasks or self.outputs or self.model)

    def image_among(self, names: Sequence[str]) -> str | None:
        """Return which of a file's inputs is the image; None if that is not said.

        It is the only one, the one that is called so, or the only one that is not described.
        """
        others = self.other_tensors
        left = [name for name in names if name not in others]
        if self.input.tensor is not None or len(left) != 1:
            return self.input.tensor
        return left[0]

    def parts_of(self, tensor: str) -> dict[str, tuple[int, int] | None]:
        """Return the channels of each input that a tensor of the file holds; "" is the image."""
        parts = {n: e.channels for n, e in self.inputs.items() if (e.tensor or n) == tensor}
        return {"": self.input.channels, **parts} if self.input.tensor == tensor else parts

    @property
    def other_tensors(self) -> dict[str, OtherEntry]:
        """The inputs beside the image, by their names in the file."""
        return {entry.tensor or name: entry for name, entry in self.inputs.items()}

    def fit(self, height: int, width: int) -> Fit:
        """Return how images become an input of this size.

        Raises:
            ConfigError: Pictures are padded with a number.
        """
        mode, pad = self.input.fit or "letterbox", self.input.pad
        if isinstance(pad, float) and not self.input.takes_map:
            raise ConfigError(f"pad {pad:g}: expected an RGB colour, because images are pictures")
        colour = pad if isinstance(pad, tuple) else MEAN_COLOUR
        return Fit(height=height, width=width, mode=mode, pad=colour)

    def with_input(self, **values: object) -> SpecFile:
        """Return the same with fields of the input; those that are None stay as they are."""
        said = {name: value for name, value in values.items() if value is not None}
        merged = self.input.model_dump() | said
        return self.model_copy(update={"input": config.parse(InputEntry, merged, "input")})


def embedded_spec(metadata: Mapping[str, str], where: str) -> SpecFile | None:
    """Return the spec in an ONNX file's metadata, or None if there is none.

    Raises:
        ConfigError: It is no spec that this version reads.
    """
    text = metadata.get(SPEC_KEY)
    return None if text is None else config.parse_text(SpecFile, text, f"{where}: {SPEC_KEY}")


def read_spec(path: Path) -> SpecFile:
    """Read a spec.

    Raises:
        ConfigError: The file is missing, is no YAML, or a field is unknown or does not fit.
    """
    return config.load(SpecFile, path)
