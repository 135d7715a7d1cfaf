"""Task maps as the fields of ROS messages, by the conventions of REP 117, REP 118 and Nav2.

Nothing here imports ROS. A node fills its own message classes with these fields, and a recording
serialises them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from degmix_edge.camera import BAYER, FrameFormat, frame_size
from degmix_edge.preprocess import Placement
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.tasks import TaskSpec, look

IMAGE_TYPE = "sensor_msgs/msg/Image"
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
LABELS_TYPE, CLASS_TYPE = "vision_msgs/msg/LabelInfo", "vision_msgs/msg/VisionClass"
DEFINITIONS = {
    LABELS_TYPE: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
    CLASS_TYPE: "uint16 class_id\nstring class_name\n",
}
"""The definitions of messages that are not in every distribution of ROS."""
SEMANTIC, SEGMENTATION = "semseg", "segmentation"
"""The task whose topics are those of Nav2's segmentation node, and what they are called there."""
ENCODINGS: dict[FrameFormat, str] = {
    **{"rgb": "rgb8", "bgr": "bgr8", "nv12": "nv12", "yuyv": "yuv422_yuy2", "uyvy": "yuv422"},
    **{"grey": "mono8"},
    **{name: f"{name}8" for name in BAYER},
}
"""The encoding of an image whose pixels are a camera's frame of each format."""


@dataclass(frozen=True)
class ImageContent:
    """The fields of a `sensor_msgs/Image` beside its header. Rows are packed.

    Attributes:
        encoding: ROS's name of the pixels.
        height, width: In pixels.
        array: The pixels in the machine's byte order, C-contiguous.
    """

    encoding: str
    height: int
    width: int
    array: np.ndarray

    @property
    def step(self) -> int:
        """Bytes of a row."""
        return int(self.array.nbytes) // len(self.array)

    @property
    def data(self) -> np.ndarray:
        """The bytes, as a flat uint8 array that shares its memory with `array`."""
        return self.array.reshape(-1).view(np.uint8)

    @property
    def is_bigendian(self) -> int:
        """The message's field of this name."""
        return int(sys.byteorder == "big")


@dataclass(frozen=True)
class CameraContent:
    """The fields of a `sensor_msgs/CameraInfo` that describe a map. The distortion is unknown.

    Attributes:
        height, width: Size of the map in pixels.
        matrix: K, the camera matrix `(3, 3)` in pixels of the map.
    """

    height: int
    width: int
    matrix: np.ndarray

    @property
    def projection(self) -> np.ndarray:
        """P, the projection matrix `(3, 4)` of a single camera that is not rectified."""
        return np.hstack([self.matrix, np.zeros((3, 1))])


def group(spec: TaskSpec) -> str:
    """Return the first part of the names of a task's topics.

    It is `segmentation` for the task `semseg`, as in Nav2's node. Depth that is not in metres is
    `<task>_relative`, because readers of a depth topic take its numbers for metres. Other tasks
    have their own name.
    """
    if spec.name == SEMANTIC:
        return SEGMENTATION
    name = re.sub(r"\W", "_", spec.name, flags=re.ASCII)
    name = f"_{name}" if name[0].isdigit() else name
    return f"{name}_relative" if is_depth(spec) and not is_metric(spec) else name


def is_depth(spec: TaskSpec) -> bool:
    """Whether the values are distances along the optical axis, of whatever unit."""
    return spec.metric == "rmse" and not spec.components


def is_metric(spec: TaskSpec) -> bool:
    """Whether depth is in metres. An output's inverse is in metres only if it was given a scale."""
    return spec.unit == "m" and not (spec.decode == "reciprocal" and spec.scale == 1)


def known_depth(depth: np.ndarray) -> np.ndarray:
    """Return depth with NaN where a network gives zero or less, which is no distance."""
    is_known = depth > 0
    return depth if is_known.all() else np.where(is_known, depth, np.float32(np.nan))


def map_topic(spec: TaskSpec, tasks: Iterable[TaskSpec]) -> str:
    """Return the topic of a task's map, below the camera's or the node's name.

    Args:
        spec: The task.
        tasks: All tasks of the network. A task `confidence` beside `semseg` goes into its group.
    """
    if spec.name == "confidence" and any(task.name == SEMANTIC for task in tasks):
        return f"{SEGMENTATION}/confidence"
    return f"{group(spec)}/{'mask' if spec.has_labels else 'image'}"


def map_content(task_map: TaskMap) -> ImageContent:
    """Return a map as an image of numbers.

    Class indices are `mono8`, or `mono16` where there are more than 256 classes. One probability is
    `mono8`, 0 to 255. Everything else is float32, with NaN where there is no value: depth in metres
    is `32FC1`, normals are `32FC3`, and other vectors have as many channels as components.

    Args:
        task_map: The whole map of a task that is not raw.
    """
    array = np.asarray(task_map)
    kind = look(task_map.spec)
    if kind == "classes":
        encoding = "mono8" if array.dtype == np.uint8 else "mono16"
    elif kind == "grey":
        # NaN, where a network that crops images saw nothing, has no other number in 8 bits.
        shares = np.nan_to_num(array, nan=0.0).clip(0, 1)
        array, encoding = np.rint(shares * 255).astype(np.uint8), "mono8"
    else:
        array = array.astype(np.float32, copy=False)
        array = known_depth(array) if is_depth(task_map.spec) else array
        encoding = f"32FC{array.shape[2] if array.ndim == 3 else 1}"
    height, width = array.shape[:2]
    return ImageContent(encoding, height, width, np.ascontiguousarray(array))


def frame_content(pixels: np.ndarray, kind: FrameFormat) -> ImageContent:
    """Return a camera's frame as an image.

    Args:
        pixels: The frame's uint8 array, as its format lays it out.
        kind: The format.

    Raises:
        InputError: No frame of this format has such an array.
    """
    height, width = frame_size(pixels.shape, pixels.dtype, kind)
    return ImageContent(ENCODINGS[kind], height, width, np.ascontiguousarray(pixels))


def camera_content(matrix: np.ndarray, placement: Placement) -> CameraContent:
    """Return the camera of a map, given the camera of the image that the map is of.

    Focal lengths and centre are scaled as ROS's `image_proc` does, so that maps and images that it
    resized agree. The padding is cut off a map, so that only the resizing counts.

    Args:
        matrix: The camera matrix `(3, 3)` of the image.
        placement: The map's own, as in `TaskMap.placement`.
    """
    whole = (0, 0, placement.image_height, placement.image_width)
    top, left, height, width = placement.window or whole
    across, down = placement.width / width, placement.height / height
    moved = np.array([[across, 0, -left * across], [0, down, -top * down], [0, 0, 1]])
    return CameraContent(
        placement.height, placement.width, np.asarray(moved @ np.asarray(matrix, np.float64))
    )


def class_map(spec: TaskSpec) -> list[tuple[int, str]]:
    """Return the id and the name of each class, for `vision_msgs/LabelInfo`.

    Classes without a name are `class 3` and so on. The largest id that a pixel can have means
    that it has no class, and is not listed.
    """
    names = spec.classes or tuple(f"class {index}" for index in range(spec.num_channels))
    return list(enumerate(names))


def seconds_and_rest(stamp_ns: int | None) -> tuple[int, int]:
    """Return a stamp as the fields `sec` and `nanosec`; both are 0 where it is unknown."""
    return divmod(stamp_ns or 0, 10**9)
