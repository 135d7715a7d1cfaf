"""Bytes of a frame as cameras lay them out, and the same frame as RGB.

YUV is ITU-R BT.601 of limited range, as cameras and video decoders give it, in the whole numbers of
OpenCV's `COLOR_YUV2RGB_NV12` and `COLOR_YUV2RGB_YUY2`. plugins/fit_image does the same on a GPU.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np

from degmix_edge.errors import ConfigError, InputError

FrameFormat: TypeAlias = Literal["rgb", "bgr", "nv12", "yuyv"]
"""What the bytes of a uint8 array are: `rgb` and `bgr` are `(H, W, 3)`; `nv12` is `(3 H / 2, W)`, a
plane of Y above rows of U and V in turn; `yuyv`, which is also called YUY2, is `(H, W, 2)`."""
FORMATS: tuple[FrameFormat, ...] = get_args(FrameFormat)

_BITS = 20
_ROUND = 1 << (_BITS - 1)
_LUMA = (np.maximum(np.arange(256), 16) - 16).astype(np.int32) * 1220542 + _ROUND
_SHAPES = {
    "rgb": "(height, width, 3)",
    "bgr": "(height, width, 3)",
    "nv12": "(height * 3 / 2, width) with an even height and width",
    "yuyv": "(height, width, 2) with an even width",
}


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
