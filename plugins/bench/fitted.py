"""Frames of cameras, and what the processor makes of them; no torch."""

from __future__ import annotations

import numpy as np
import PIL.Image

from degmix_edge.camera import FrameFormat, to_rgb

PAD = (124, 116, 104)
Size = tuple[int, int]
"""Height and width in pixels."""


def frame_shape(kind: FrameFormat, size: Size) -> tuple[int, ...]:
    """The shape of the array of a frame."""
    height, width = size
    if kind == "nv12":
        return height * 3 // 2, width
    return height, width, 2 if kind == "yuyv" else 3


def placed_size(size: Size, out: Size) -> Size:
    """The size of a frame in an image of size `out`, as large as it fits."""
    scale = min(out[0] / size[0], out[1] / size[1])
    return round(size[0] * scale), round(size[1] * scale)


def by_pillow(frame: np.ndarray, kind: FrameFormat, out: Size) -> np.ndarray:
    """A frame in the middle of an image of size `out`, by the processor's own path."""
    pixels = to_rgb(frame, kind)
    placed = placed_size(pixels.shape[:2], out)
    small = PIL.Image.fromarray(pixels).resize(placed[::-1], PIL.Image.Resampling.BILINEAR)
    canvas = np.full((*out, 3), PAD, np.uint8)
    top, left = ((whole - part) // 2 for whole, part in zip(out, placed, strict=True))
    canvas[top : top + placed[0], left : left + placed[1]] = np.asarray(small)
    return canvas
