"""The optional library that converts and resizes pictures on the processor, several times faster.

A wheel has it, and `make cpu-ops` compiles `plugins/pixels` in a checkout. Without it numpy and
Pillow do the same work. The bytes are equal, within one level where a picture is resized.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import numpy as np

from degmix_edge import libraries
from degmix_edge.errors import ConfigError

FILE, VARIABLE = "libdegmix_pixels.so", "DEGMIX_PIXELS"
"""The library's name, and the variable that has a path to it, or `none` to leave it out."""
VERSION = "1"
"""The version of the C interface in plugins/pixels/pixels.h."""
PACKINGS = {"bgr": 1, "nv12": 2, "yuyv": 3, "uyvy": 4}
"""The formats that it converts, and their numbers there."""


class _Picture(ctypes.Structure):
    """The struct `Picture` of plugins/pixels/pixels.h."""

    _fields_ = (("data", ctypes.c_void_p),) + tuple(
        (name, ctypes.c_int64) for name in ("pitch", "height", "width")
    )


def library() -> Path | None:
    """Return the library's path, or None where there is none.

    Raises:
        ConfigError: The environment names a file that is not there.
    """
    return libraries.find(FILE, VARIABLE, "make cpu-ops")


def to_rgb(frame: np.ndarray, kind: str, size: tuple[int, int]) -> np.ndarray | None:
    """Return a frame as RGB `(H, W, 3)`, uint8, or None where the library cannot do it.

    Args:
        frame: The uint8 array of a whole frame.
        kind: Its `camera.FrameFormat`.
        size: Its height and width in pixels.

    Raises:
        ConfigError: The library cannot be opened.
    """
    path = library()
    if path is None or kind not in PACKINGS:
        return None
    frame = np.ascontiguousarray(frame)
    rgb = np.empty((*size, 3), np.uint8)
    convert = _opened(path).degmix_pixels_to_rgb
    if convert(frame.ctypes.data, PACKINGS[kind], *size, rgb.ctypes.data) != 0:
        raise MemoryError(f"{path}: no memory for a frame of {size[0]}x{size[1]}")
    return rgb


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Return RGB `(H, W, 3)`, uint8, at another size, or None where the library cannot do it.

    The rows may be apart, as in a part of a larger picture.

    Raises:
        ConfigError: The library cannot be opened.
    """
    path = library()
    if path is None or image.strides[1:] != (3, 1) or image.strides[0] < 0:
        return None
    rgb = np.empty((height, width, 3), np.uint8)
    picture = _Picture(image.ctypes.data, image.strides[0], *image.shape[:2])
    done = _opened(path).degmix_pixels_resize(ctypes.byref(picture), height, width, rgb.ctypes.data)
    if done != 0:
        raise MemoryError(f"{path}: no memory for a picture of {height}x{width}")
    return rgb


@lru_cache
def _opened(path: Path) -> ctypes.CDLL:
    try:
        opened = ctypes.CDLL(str(path))
        opened.degmix_pixels_version.restype = ctypes.c_char_p
        version = opened.degmix_pixels_version().decode()
        convert, change = opened.degmix_pixels_to_rgb, opened.degmix_pixels_resize
    except (OSError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no library of ours for this machine ({error}); `make cpu-ops` builds it, "
            f"{VARIABLE}=none leaves it out"
        ) from None
    if version != VERSION:
        raise ConfigError(
            f"{path}: version {version}, expected {VERSION}; `make cpu-ops` builds it again"
        )
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    convert.argtypes = [pointer, ctypes.c_int32, number, number, pointer]
    change.argtypes = [ctypes.POINTER(_Picture), number, number, pointer]
    return opened
