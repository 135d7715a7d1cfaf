"""How PyAV's pictures become arrays of a session's formats; video files and networks share it."""

from __future__ import annotations

from typing import Any

import numpy as np

from degmix_edge.camera import FrameFormat, check_format
from degmix_edge.errors import ConfigError, SourceError

PIXELS = {"rgb": "rgb24", "bgr": "bgr24", "nv12": "nv12", "yuyv": "yuyv422", "grey": "gray"}
"""PyAV's name of each format that frames can be converted to."""


def check_target(kind: str | None, source: str) -> FrameFormat:
    """Return the format to convert frames to; RGB where none is asked for.

    Raises:
        ConfigError: There is no such format, or PyAV does not write it.
    """
    if kind is not None and kind not in PIXELS:
        raise ConfigError(f"{source}: format {kind!r}, expected one of {', '.join(PIXELS)}")
    return check_format(kind or "rgb")


def to_array(frame: Any, kind: str, size: tuple[int, int] | None, source: str) -> np.ndarray:
    """Return a decoded frame as an array of format `kind`, turned upright.

    RGB has the frame's own colours, of whichever standard the video says it has. The YUV formats
    become BT.601 of limited range, because that is what a session takes them for.

    Args:
        frame: PyAV's frame.
        kind: The format.
        size: Height and width to scale to; None keeps the frame's own.
        source: What messages call the source.

    Raises:
        SourceError: The format does not fit the frame's size, or the frame lies on its side and
            the format is YUV, which cannot be turned.
    """
    height, width = size or (frame.height, frame.width)
    turns = frame.rotation // 90 % 4
    if turns % 2 and size:
        height, width = width, height
    is_yuv = kind in ("nv12", "yuyv")
    if is_yuv and (width % 2 or (kind == "nv12" and height % 2)):
        raise SourceError(
            f"{source}: {width}x{height} pixels cannot be {kind}, which needs even sides; ask for "
            "rgb, or for another size"
        )
    if is_yuv and turns:
        raise SourceError(f"{source}: a turned video cannot be {kind}; ask for rgb")
    colours = {}
    if is_yuv:
        from av.video.reformatter import ColorRange, Colorspace

        colours = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}
    scaled = frame.reformat(width=width, height=height, format=PIXELS[kind], **colours)
    array: np.ndarray = scaled.to_ndarray()
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array
