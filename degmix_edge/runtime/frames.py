"""A frame: everything that a network takes at one moment, as its user has it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import PIL.Image

from degmix_edge.camera import (
    KERNEL_FORMATS,
    DeviceImage,
    FrameFormat,
    RawFrame,
    frame_size,
    is_on_device,
    shape_and_dtype,
    to_rgb,
)
from degmix_edge.errors import InputError
from degmix_edge.limits import check_limit
from degmix_edge.network import IMAGE, InputSpec, NetworkSpec
from degmix_edge.preprocess import (
    ENDINGS,
    Fit,
    Image,
    Placement,
    fit_image,
    fit_intrinsics,
    fit_map,
    place,
    read_image,
)

Frame: TypeAlias = Image | DeviceImage | Mapping[str, Any]
"""An image, or the depth or other numbers that a network takes in its place; or, where it takes
more, each input's value by its name: `image`, and those of `NetworkSpec.inputs`. States may be left
out."""
T = TypeVar("T")
ARRAYS = (".npy", ".txt")
"""Endings of files that hold one array."""
OF_MAPS = (".npy", *ENDINGS)
"""Endings of files that hold a map of numbers."""


def endings_of(spec: NetworkSpec | None) -> tuple[str, ...]:
    """Return the endings of files that may hold a network's first input."""
    return OF_MAPS if spec is not None and spec.takes_map else ENDINGS


def read_first(value: Image, spec: NetworkSpec | None) -> np.ndarray:
    """Return a network's first input as its user has it, of any size.

    Returns:
        The pixels, uint8 RGB `(H, W, 3)`; of a network that takes a map, its numbers `(H, W)` or
        `(H, W, C)`.

    Raises:
        InputError: It cannot be read, or is not what the network takes.
    """
    if spec is None or not spec.takes_map:
        return read_image(value)
    try:
        return _numbers(value, spec.channels)
    except InputError as error:
        unit = f" in {spec.unit}" if spec.unit else ""
        what = f"depth{unit}" if spec.color == "depth" else f"numbers{unit}"
        raise InputError(
            f"{IMAGE}: {error}; the network {spec.model!r} takes {what}, and no picture: an array, "
            "a .npy file, or an image file whose pixels are these numbers, as a PNG of 16 bits"
        ) from None


def image_of(frame: Frame) -> Image:
    """Return the image of a frame.

    Raises:
        InputError: It has none, or only a GPU can read it.
    """
    if not isinstance(frame, Mapping):
        return _on_host(frame)
    if IMAGE not in frame:
        raise InputError(f"frame: has {', '.join(frame) or 'nothing'}, and no {IMAGE!r}")
    return _on_host(frame[IMAGE])


def fit_frame(
    frame: Frame, fit: Fit, spec: NetworkSpec, kind: FrameFormat = "rgb"
) -> tuple[dict[str, np.ndarray], Placement]:
    """Return what `Backend.infer` takes, of one frame, and where the image lies in it.

    A state that the frame does not have is zeros. Arrays of images are of format `kind`; files and
    Pillow's images say themselves what they are.

    Raises:
        InputError: An input is missing or unknown, or does not fit the network or the image.
    """
    images, rest, placement = _taken(frame, fit, spec, partial(_fit, kind=kind))
    names = [one.name for one in spec.input_specs]
    feed = {name: images[name][None] if name in images else rest[name] for name in names}
    return feed, placement


def raw_frame(
    frame: Frame, fit: Fit, spec: NetworkSpec, kind: FrameFormat = "rgb"
) -> tuple[dict[str, np.ndarray], dict[str, RawFrame], Placement]:
    """Return a frame for a backend that fits images itself, as `fit_frame` does.

    The images are apart from the other inputs, by name. Those that are no arrays of format `kind`,
    such as files, are fitted here.

    Raises:
        InputError: As `fit_frame`, which takes no arrays of a GPU.
    """
    images, rest, placement = _taken(frame, fit, spec, partial(_raw, kind=kind))
    return rest, images, placement


def _taken(
    frame: Frame, fit: Fit, spec: NetworkSpec, take: Callable[[Any, Fit], tuple[T, Placement]]
) -> tuple[dict[str, T], dict[str, np.ndarray], Placement]:
    """The images as `take` gives them, the other inputs, and where the first image lies."""
    values = _values(frame, spec)
    images: dict[str, T] = {}
    rest: dict[str, np.ndarray] = {}
    if spec.takes_map:
        numbers = read_first(_on_host(values[IMAGE]), spec)
        placement = place(numbers.shape[0], numbers.shape[1], fit)
        rest[IMAGE] = _fitted_map(numbers, fit, spec.pad)[None]
    else:
        images[IMAGE], placement = take(values[IMAGE], fit)
    whole = placement.image_height, placement.image_width
    for one in spec.inputs:
        try:
            if one.kind == "image":
                own = _own(fit, one)
                images[one.name], placed = take(values[one.name], own)
                _check_size((placed.image_height, placed.image_width), whole, own == fit)
            else:
                rest[one.name] = _row(values, one, spec, fit, placement)
        except InputError as error:
            raise InputError(f"{one.name}: {error}") from None
    return images, rest, placement


def _fit(image: Any, fit: Fit, kind: FrameFormat) -> tuple[np.ndarray, Placement]:
    host = _on_host(image)
    if kind != "rgb" and isinstance(host, np.ndarray):
        host = to_rgb(host, kind)
    return fit_image(host, fit)


def _raw(image: Any, fit: Fit, kind: FrameFormat) -> tuple[RawFrame, Placement]:
    is_here = is_on_device(image)
    if is_here or (isinstance(image, np.ndarray) and (kind != "rgb" or _is_rgb(image))):
        size = frame_size(*shape_and_dtype(image), kind)
        placed = place(*size, fit)
        area = placed.top, placed.left, placed.height, placed.width
        if is_here and kind not in KERNEL_FORMATS:
            raise InputError(
                f"image: got {kind} in a GPU's memory, where a frame is one of "
                f"{', '.join(KERNEL_FORMATS)}; convert it there, or give a numpy array, which the "
                "processor converts"
            )
        raw = RawFrame(image, kind, size, placed.window or (0, 0, *size), area, fit.pad)
        if is_here or raw.fits_kernel:
            return raw, placed
    pixels, placed = _fit(image, fit, kind)
    whole = (0, 0, *fit.size)
    return RawFrame(pixels, "rgb", fit.size, whole, whole, fit.pad), placed


def _is_rgb(image: np.ndarray) -> bool:
    """Whether it is plain RGB: grey and RGBA need the processor."""
    is_colour = image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    return is_colour and image.dtype == np.uint8


def _on_host(image: Any) -> Image:
    if is_on_device(image):
        raise InputError(
            f"image: got {type(image).__name__} in a GPU's memory, which this session cannot read; "
            "give a numpy array, or load the bundle with backend tensorrt and our kernels "
            "(`make plugin`)"
        )
    host: Image = image
    return host


def _own(fit: Fit, one: InputSpec) -> Fit:
    """How pictures become an input of another size."""
    return fit.model_copy(update=dict(zip(("height", "width"), one.size, strict=True)))


def _values(frame: Frame, spec: NetworkSpec) -> Mapping[str, Any]:
    """The values by input, all of which are there.

    Raises:
        InputError: One is missing, or there is one that the network does not take.
    """
    values = frame if isinstance(frame, Mapping) else {IMAGE: frame}
    if not spec.inputs and values.keys() == {IMAGE}:
        return values
    states = {one.name for one in spec.inputs if one.kind == "state"}
    names = [IMAGE, *(one.name for one in spec.inputs)]
    missing = [name for name in names if name not in values and name not in states]
    strange = [name for name in values if name not in names]
    if missing or strange:
        wanted = ", ".join(f"{name!r}: ..." for name in names if name not in states)
        raise InputError(
            f"frame: has {', '.join(values)}, and the network {spec.model!r} takes "
            f"{', '.join(names)}; give {{{wanted}}}"
        )
    return values


def _row(
    values: Mapping[str, Any], one: InputSpec, spec: NetworkSpec, fit: Fit, placement: Placement
) -> np.ndarray:
    """What one frame has of an input: one row of the batch."""
    shape = spec.row_shape(one.tensor_spec)
    if one.name not in values:
        return np.zeros(shape, one.dtype)
    array = _fitted(values[one.name], one, fit, placement)
    if array.size != math.prod(shape):
        raise InputError(f"got {array.dtype} {array.shape}, expected {shape}")
    return np.ascontiguousarray(array.reshape(shape))


def _fitted(value: Any, one: InputSpec, fit: Fit, placement: Placement) -> np.ndarray:
    whole = placement.image_height, placement.image_width
    if one.kind == "map":
        array = _numbers(value, one.shape[1] if len(one.shape) == 4 else 1)
        _check_size(array.shape[:2], whole, True)
        return _fitted_map(array, _own(fit, one), one.pad)
    array = _array(value)
    if one.kind == "intrinsics":
        if array.shape[-2:] != (3, 3) or array.size != 9:
            raise InputError(f"got {array.dtype} {array.shape}, expected a camera matrix (3, 3)")
        array = array.reshape(3, 3)
        if not (array[0, 0] > 0 and array[1, 1] > 0 and np.isfinite(array).all()):
            raise InputError(
                f"got focal lengths {array[0, 0]} and {array[1, 1]}, expected pixels above zero; "
                "is the camera calibrated?"
            )
        array = fit_intrinsics(array, placement)
    if not np.can_cast(array.dtype, one.dtype, "same_kind"):
        raise InputError(f"got {array.dtype}, expected {one.dtype}")
    return array.astype(one.dtype)


def _check_size(size: tuple[int, ...], whole: tuple[int, int], has_to: bool) -> None:
    if has_to and tuple(size) != whole:
        raise InputError(
            f"is {size[0]}x{size[1]} (height x width) and the image {whole[0]}x{whole[1]}; they "
            "have to lie on each other pixel by pixel, so resize or rectify one first"
        )


def _numbers(value: Any, channels: int) -> np.ndarray:
    """The values of a map: numbers `(H, W)`, or `(H, W, C)` with so many channels.

    Raises:
        InputError: They are none.
    """
    array = _array(value)
    is_map = array.ndim == 2 + (channels > 1) or array.ndim == 3
    have = array.shape[2] if array.ndim == 3 else 1
    if not is_map or have != channels or array.dtype.kind not in "iuf" or not array.size:
        wanted = f"(H, W, {channels})" if channels > 1 else "(H, W)"
        got = f"{_place(value)}got {array.dtype} {array.shape}"
        raise InputError(f"{got}, expected numbers {wanted}")
    return array


def _place(value: Any) -> str:
    """The beginning of a message about a file; of another value there is nothing to say."""
    return f"{value}: " if isinstance(value, str | os.PathLike) else ""


def _fitted_map(array: np.ndarray, fit: Fit, pad: float) -> np.ndarray:
    """A map at the network's size, float32 `(C, H, W)`."""
    fitted = fit_map(array, fit, pad)
    planes = fitted[None] if fitted.ndim == 2 else np.moveaxis(fitted, -1, 0)
    return np.ascontiguousarray(planes)


def _array(value: Any) -> np.ndarray:
    """The numbers of an array, of a Pillow image, or of a file."""
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        try:
            if path.suffix == ".npy":
                return np.asarray(np.load(path, allow_pickle=False))
            if path.suffix == ".txt":
                return np.atleast_1d(np.loadtxt(path))
            with PIL.Image.open(path) as image:
                check_limit("image_pixels", image.width * image.height, str(path), InputError)
                return _pixels(image, f"{path}: ")
        except InputError:
            raise
        except Exception as error:  # the readers raise nearly anything on a damaged file
            raise InputError(f"{path}: cannot be read: {error}") from None
    return _pixels(value) if isinstance(value, PIL.Image.Image) else np.asarray(value)


def _pixels(image: PIL.Image.Image, place: str = "") -> np.ndarray:
    if image.mode in ("P", "PA"):
        raise InputError(
            f"{place}got a picture with a palette (Pillow mode {image.mode}), whose numbers are no "
            "measurements; expected numbers as pixels"
        )
    return np.asarray(image)
