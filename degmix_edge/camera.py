"""Bytes of a frame as cameras lay them out, and the same frame as RGB.

YUV is ITU-R BT.601 of limited range, as cameras and video decoders give it, in the whole numbers of
OpenCV's `COLOR_YUV2RGB_NV12` and `COLOR_YUV2RGB_YUY2`. plugins/fit_image does the same on a GPU for
`KERNEL_FORMATS`, and `pixel_library` on the processor, where its library is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from degmix_edge import pixel_library
from degmix_edge.errors import ConfigError, InputError

FrameFormat: TypeAlias = Literal[
    "rgb",
    "bgr",
    "nv12",
    "yuyv",
    "uyvy",
    "grey",
    "bayer_rggb",
    "bayer_bggr",
    "bayer_gbrg",
    "bayer_grbg",
]
"""What the bytes of a uint8 array are.

`rgb` and `bgr` are `(H, W, 3)`. `nv12` is `(3 H / 2, W)`: a plane of Y above rows of U and V in
turn. `yuyv`, which is also called YUY2, and `uyvy` are `(H, W, 2)`. `grey` is `(H, W)`. A Bayer
mosaic is `(H, W)` too, and its name says the colours of the first two pixels of the first two
rows."""
FORMATS: tuple[FrameFormat, ...] = get_args(FrameFormat)
BAYER = FORMATS[6:]
KERNEL_FORMATS: tuple[FrameFormat, ...] = ("rgb", "bgr", "nv12", "yuyv")
"""Those that the kernel `fit_image` takes, in the order of its numbers. The others are converted on
the processor, wherever the network runs."""

Area: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width of a part of a picture, in its pixels."""
DLPACK_CUDA = 2
"""A CUDA device, in DLPack's numbers of devices."""
MOST_SIDE, MOST_SHRINK = 16384, 128
"""The longest side in pixels of a frame that the kernel `fit_image` takes, and how many times
smaller a side becomes."""

_BITS = 20
_BAND = 32
"""Rows, an even number."""
_ROUND = 1 << (_BITS - 1)
_LUMA = (np.maximum(np.arange(256), 16) - 16).astype(np.int32) * 1220542 + _ROUND
_LAYOUTS: dict[FrameFormat, tuple[tuple[int, ...], int, int]] = {
    "rgb": ((3,), 1, 1),
    "bgr": ((3,), 1, 1),
    "nv12": ((), 3, 2),
    "yuyv": ((2,), 1, 2),
    "uyvy": ((2,), 1, 2),
    "grey": ((), 1, 1),
    **dict.fromkeys(BAYER, ((), 2, 2)),
}
"""The shape of a pixel, and of what the number of rows and of columns is a multiple."""
_SHAPES = {
    "rgb": "(height, width, 3)",
    "bgr": "(height, width, 3)",
    "nv12": "(height * 3 / 2, width) with an even height and width",
    "yuyv": "(height, width, 2) with an even width",
    "uyvy": "(height, width, 2) with an even width",
    "grey": "(height, width)",
    **dict.fromkeys(BAYER, "(height, width) with an even height and width"),
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
        """Whether the kernel `fit_image` takes a frame of this format and size."""
        if self.kind not in KERNEL_FORMATS:
            return False
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
    rest, down, across = _LAYOUTS[kind]
    if np.dtype(str(dtype)) == np.uint8 and shape[2:] == rest and len(shape) > 1 and min(shape) > 0:
        rows, columns = shape[:2]
        if rows % down == 0 and columns % across == 0:
            return (rows // 3 * 2 if kind == "nv12" else rows), columns
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
    if kind == "grey":
        return np.repeat(frame[..., None], 3, axis=2)
    if kind.startswith("bayer"):
        return _demosaic(frame, kind.removeprefix("bayer_"))
    found = pixel_library.to_rgb(frame, kind, (height, width))
    if found is not None:
        return found
    if kind == "bgr":
        return np.ascontiguousarray(frame[..., ::-1])
    if kind == "nv12":
        luma, pairs = frame[:height], frame[height:].reshape(height // 2, width // 2, 2)
    else:
        first = int(kind == "uyvy")
        luma, pairs = frame[..., first], frame[..., 1 - first].reshape(height, width // 2, 2)
    return _from_yuv(luma, pairs)


def _from_yuv(luma: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """RGB of Y `(H, W)` and of U and V `(H, W / 2, 2)`, or `(H / 2, W / 2, 2)`."""
    height, width = luma.shape
    rgb = np.empty((height, width, 3), np.uint8)
    shared = height // len(pairs)
    # A band at a time, so that the sums stay in the cache: three times as fast.
    for top in range(0, height, _BAND):
        bright = _LUMA[luma[top : top + _BAND]].reshape(-1, shared, width // 2, 2)
        own = pairs[top // shared : (top + _BAND) // shared].astype(np.int32) - 128
        u, v = own[:, None, :, None, 0], own[:, None, :, None, 1]
        band = rgb[top : top + _BAND]
        for channel, colour in enumerate((1673527 * v, -852492 * v - 409993 * u, 2116026 * u)):
            sums = bright + colour
            sums >>= _BITS
            band[..., channel] = sums.clip(0, 255, out=sums).reshape(-1, width)
    return rgb


def _demosaic(frame: np.ndarray, pattern: str) -> np.ndarray:
    """RGB of a Bayer mosaic: what a pixel lacks is the mean of its nearest neighbours that have it.

    The picture is mirrored at its borders, so that colours stay where they are in the pattern.
    """
    around = np.pad(frame, 1, mode="reflect").astype(np.uint16)
    red, blue = (divmod(pattern.index(colour), 2) for colour in "rb")
    rgb = np.empty((*frame.shape, 3), np.uint8)

    def mean(y: int, x: int, *steps: tuple[int, int]) -> np.ndarray:
        views = [around[1 + y + dy :: 2, 1 + x + dx :: 2] for dy, dx in steps]
        total = sum(view[: len(frame) // 2, : frame.shape[1] // 2] for view in views)
        return np.asarray((total + len(steps) // 2) // len(steps))

    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        own = frame[y::2, x::2]
        if (y, x) in (red, blue):
            cross = mean(y, x, (-1, 0), (1, 0), (0, -1), (0, 1))
            corners = mean(y, x, (-1, -1), (-1, 1), (1, -1), (1, 1))
            colours = (own, cross, corners) if (y, x) == red else (corners, cross, own)
        else:
            beside, above = mean(y, x, (0, -1), (0, 1)), mean(y, x, (-1, 0), (1, 0))
            colours = (beside, own, above) if y == red[0] else (above, own, beside)
        for channel, values in enumerate(colours):
            rgb[y::2, x::2, channel] = values
    return rgb
