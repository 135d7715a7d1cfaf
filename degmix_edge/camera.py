"""Bytes of a frame as cameras lay them out, and the same frame as RGB.

YUV is ITU-R BT.601 of limited range, as cameras and video decoders give it, in the whole numbers of
OpenCV's `COLOR_YUV2RGB_NV12` and `COLOR_YUV2RGB_YUY2`. plugins/fit_image does the same on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from degmix_edge.errors import ConfigError, InputError

FrameFormat: TypeAlias = Literal["rgb", "bgr", "nv12", "yuyv"]
"""What the bytes of a uint8 array are: `rgb` and `bgr` are `(H, W, 3)`; `nv12` is `(3 H / 2, W)`, a
plane of Y above rows of U and V in turn; `yuyv`, which is also called YUY2, is `(H, W, 2)`."""
FORMATS: tuple[FrameFormat, ...] = get_args(FrameFormat)

Area: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width of a part of a picture, in its pixels."""
DLPACK_CUDA = 2
"""A CUDA device, in DLPack's numbers of devices."""
MOST_SIDE, MOST_SHRINK = 16384, 128
"""The longest side in pixels of a frame that the kernel `fit_image` takes, and how many times
smaller a side becomes."""

_BITS = 20
_ROUND = 1 << (_BITS - 1)
_LUMA = (np.maximum(np.arange(256), 16) - 16).astype(np.int32) * 1220542 + _ROUND
_SHAPES = {
    "rgb": "(height, width, 3)",
    "bgr": "(height, width, 3)",
    "nv12": "(height * 3 / 2, width) with an even height and width",
    "yuyv": "(height, width, 2) with an even width",
}


class DlpackArray(Protocol):
    """An array that its library hands out by DLPack, such as torch's and CuPy's."""

    def __dlpack_device__(self) -> tuple[Any, int]:
        """Return the DLPack device type and the index of the device."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """Return a capsule that `stream` may read."""


class CudaArray(Protocol):
    """An array on a GPU with the CUDA array interface."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Shape, type and address."""


DeviceImage: TypeAlias = DlpackArray | CudaArray


@dataclass(frozen=True)
class RawFrame:
    """A frame as the camera wrote it, and how it becomes an input of the network.

    Attributes:
        image: A numpy array, or an array of another library on the device.
        kind: What its bytes are.
        size: Its height and width in pixels.
        window: The part of it that the network sees.
        place: The part of the input that shows the window.
        pad: RGB colour of the rest of the input.
    """

    image: Any
    kind: FrameFormat
    size: tuple[int, int]
    window: Area
    place: Area
    pad: tuple[int, int, int]

    @property
    def fits_kernel(self) -> bool:
        """Whether the kernel `fit_image` takes a frame of this size."""
        shrinks = (self.window[2] / self.place[2], self.window[3] / self.place[3])
        return max(self.size) <= MOST_SIDE and max(shrinks) <= MOST_SHRINK


def is_on_device(image: Any) -> bool:
    """Whether an array is in the memory of a CUDA device."""
    if hasattr(image, "__dlpack_device__"):
        return int(image.__dlpack_device__()[0]) == DLPACK_CUDA
    return hasattr(image, "__cuda_array_interface__")


def shape_and_dtype(image: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape of an array and numpy's name of its type.

    Raises:
        InputError: It has no shape or no type.
    """
    view = getattr(image, "__cuda_array_interface__", None)
    if view is not None:
        return tuple(view["shape"]), str(np.dtype(view["typestr"]))
    try:
        return tuple(image.shape), str(image.dtype).rpartition(".")[2]  # torch.uint8
    except AttributeError:
        got = type(image).__name__
        raise InputError(f"image: got {got}, expected an array with a shape and a dtype") from None


def check_format(name: str) -> FrameFormat:
    """Return the format of this name.

    Raises:
        ConfigError: There is none.
    """
    for known in FORMATS:
        if name == known:
            return known
    raise ConfigError(f"format: got {name!r}, expected one of {', '.join(FORMATS)}")


def frame_size(shape: tuple[int, ...], dtype: object, kind: FrameFormat) -> tuple[int, int]:
    """Return the height and width in pixels of a frame with an array of this shape.

    Raises:
        InputError: No frame of this format has such an array.
    """
    is_uint8 = np.dtype(str(dtype)) == np.uint8
    if is_uint8 and len(shape) == (2 if kind == "nv12" else 3) and min(shape) > 0:
        rows, columns = shape[:2]
        if kind == "nv12" and rows % 3 == 0 and columns % 2 == 0:
            return rows // 3 * 2, columns
        if kind == "yuyv" and shape[2] == 2 and columns % 2 == 0:
            return rows, columns
        if kind in ("rgb", "bgr") and shape[2] == 3:
            return rows, columns
    raise InputError(
        f"image: got {dtype} {tuple(shape)}, expected {kind} as a uint8 array of shape "
        f"{_SHAPES[kind]}; is it of another format?"
    )


def to_rgb(frame: np.ndarray, kind: FrameFormat) -> np.ndarray:
    """Return a frame as RGB `(H, W, 3)`, uint8. An RGB frame is returned without a copy.

    Raises:
        InputError: No frame of this format has such an array.
    """
    height, width = frame_size(frame.shape, frame.dtype, kind)
    if kind == "rgb":
        return frame
    if kind == "bgr":
        return np.ascontiguousarray(frame[..., ::-1])
    if kind == "nv12":
        luma, pairs = frame[:height], frame[height:].reshape(height // 2, width // 2, 2)
        pairs = pairs.repeat(2, axis=0)
    else:
        luma, pairs = frame[..., 0], frame[..., 1].reshape(height, width // 2, 2)
    u, v = (pairs[..., i].astype(np.int32) - 128 for i in (0, 1))
    rgb = np.empty((height, width, 3), np.uint8)
    bright = _LUMA[luma]
    for channel, colour in enumerate((1673527 * v, -852492 * v - 409993 * u, 2116026 * u)):
        rgb[..., channel] = ((bright + colour.repeat(2, axis=1)) >> _BITS).clip(0, 255)
    return rgb
