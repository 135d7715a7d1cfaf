"""Images in ROS messages, of a live topic and of a recording alike, as a session takes them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image

from degmix_edge.camera import BAYER, FrameFormat
from degmix_edge.capture._formats import to_known, unpack
from degmix_edge.errors import InputError, SourceError

LAYOUTS = {
    **{"rgb8": "rgb", "bgr8": "bgr", "8UC3": "bgr", "rgba8": "rgba", "bgra8": "bgra"},
    **{"8UC4": "bgra", "mono8": "grey", "8UC1": "grey", "nv12": "nv12"},
    **{"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"},
    **{f"{name}8": name for name in BAYER},
}
"""The bytes of each encoding of `sensor_msgs/Image` that is a picture."""
NUMBERS: dict[str, tuple[Any, float]] = {
    "16UC1": (np.dtype(np.uint16), 1000.0),
    "32FC1": (np.dtype(np.float32), 1.0),
}
"""Encodings of depth, with the units of one metre: whole numbers are millimetres by REP 118."""


def image_of(message: Any) -> tuple[Any, FrameFormat]:
    """Return the image of a ROS message, and its format.

    Args:
        message: An `Image`, or a `CompressedImage` with JPEG or PNG, of rclpy or rosbags.

    Returns:
        A uint8 array; float32 metres `(H, W)` of a depth image; or a Pillow image, which is not
        decoded yet.

    Raises:
        InputError: The encoding is none that we read, or the message is too short.
    """
    if hasattr(message, "format"):
        return _compressed(message), "rgb"
    encoding, size = message.encoding, (message.height, message.width)
    what = f"an image of {encoding!r}"
    data = np.frombuffer(message.data, np.uint8)
    try:
        if encoding in NUMBERS:
            dtype, units = NUMBERS[encoding]
            dtype = dtype.newbyteorder("><"[not message.is_bigendian])
            wide = (size[0], size[1] * dtype.itemsize)
            numbers = unpack(data, "grey", wide, message.step, what).view(dtype)
            return numbers.astype(np.float32) / np.float32(units), "rgb"
        if encoding in LAYOUTS:
            layout = LAYOUTS[encoding]
            return to_known(unpack(data, layout, size, message.step, what), layout)
    except SourceError as error:
        raise InputError(str(error)) from None
    raise InputError(
        f"{what} cannot be read; have {', '.join((*LAYOUTS, *NUMBERS))}. Convert it, for example "
        "with image_proc, or set the driver to one of these"
    )


def _compressed(message: Any) -> PIL.Image.Image:
    what = f"an image of {message.format!r}"
    if "compressedDepth" in message.format:
        raise InputError(f"{what}, expected jpeg or png; take the raw depth topic instead")
    try:
        return PIL.Image.open(io.BytesIO(bytes(message.data)))
    except OSError as error:
        raise InputError(f"{what} cannot be read ({error})") from None
