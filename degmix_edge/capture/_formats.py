"""Bytes as cameras and recordings lay them out, as arrays that a session takes."""

from __future__ import annotations

import numpy as np

from degmix_edge.camera import FORMATS, FrameFormat
from degmix_edge.errors import SourceError

_BYTES = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2, "uyvy": 2}
"""Bytes of a pixel; one in every other layout."""


def unpack(
    data: np.ndarray, layout: str, size: tuple[int, int], step: int, what: str
) -> np.ndarray:
    """Return rows of bytes, which may be padded, as an array without the padding.

    Args:
        data: The bytes, a uint8 array of one dimension.
        layout: A name of a format, also one that a session does not take.
        size: Height and width in pixels.
        step: Bytes from the beginning of a row to the next.
        what: The thing that has the bytes, for messages.

    Returns:
        A C-contiguous uint8 array: `(H, W)`, `(H, W, bytes)`, or `(3 H / 2, W)` of NV12. It shares
        memory with `data` where the rows are not padded.

    Raises:
        SourceError: The rows or the whole are too short, or NV12 or YUYV has an odd size.
    """
    height, width = size
    depth = _BYTES.get(layout, 1)
    is_odd = (width % 2 and (depth == 2 or layout == "nv12")) or (height % 2 and layout == "nv12")
    if min(size) < 1 or is_odd:
        expected = "even sides" if is_odd else "sides from 1 pixel"
        raise SourceError(f"{what}: {width}x{height} pixels of {layout}, expected {expected}")
    rows, packed = height * 3 // 2 if layout == "nv12" else height, width * depth
    if step < packed:
        raise SourceError(f"{what}: rows of {step} bytes, expected at least {packed} of {layout}")
    if data.size < step * (rows - 1) + packed:
        raise SourceError(
            f"{what}: {data.size} bytes, expected {step * rows} of {width}x{height} {layout}"
        )
    # The last row may lack its padding.
    lines = np.lib.stride_tricks.as_strided(data, (rows, packed), (step * data.strides[0], 1))
    lines = np.ascontiguousarray(lines)
    return lines.reshape(rows, width, depth) if depth > 1 else lines


def to_known(array: np.ndarray, layout: str) -> tuple[np.ndarray, FrameFormat]:
    """Return an array and its format, converted where a session does not take its layout."""
    for known in FORMATS:
        if layout == known:
            return array, known
    return np.ascontiguousarray(array[..., :3]), "rgb" if layout == "rgba" else "bgr"
