"""ROS messages as plain data, with the fields and names of their definitions; no ROS is needed.

`as_ros` makes real messages of them, with the classes of rclpy, rosbags or another library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

FindClass = Callable[[str], Callable[..., Any]]
"""Returns the class of a type such as `sensor_msgs/msg/Image`, which takes the fields by name."""


class Message:
    """A message as plain data.

    Attributes:
        ros_type: The type, such as `sensor_msgs/msg/Image`.
    """

    ros_type: ClassVar[str]


@dataclass(frozen=True)
class Time(Message):
    """Seconds and nanoseconds since 1970, or since a simulation's start."""

    ros_type = "builtin_interfaces/msg/Time"
    sec: int = 0
    nanosec: int = 0


@dataclass(frozen=True)
class Header(Message):
    """When an image was taken, and in which frame of coordinates."""

    ros_type = "std_msgs/msg/Header"
    stamp: Time = Time()
    frame_id: str = ""


@dataclass(frozen=True)
class Image(Message):
    """An image with packed rows; `data` is uint8 `(height * step,)`, little-endian."""

    ros_type = "sensor_msgs/msg/Image"
    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: np.ndarray


@dataclass(frozen=True)
class RegionOfInterest(Message):
    """The part of a camera's full picture that an image shows, in full-resolution pixels."""

    ros_type = "sensor_msgs/msg/RegionOfInterest"
    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass(frozen=True)
class CameraInfo(Message):
    """A camera's calibration; `k` and `r` have 9 numbers, `p` has 12, all float64 by rows."""

    ros_type = "sensor_msgs/msg/CameraInfo"
    header: Header
    height: int
    width: int
    distortion_model: str
    d: np.ndarray
    k: np.ndarray
    r: np.ndarray
    p: np.ndarray
    binning_x: int = 0
    binning_y: int = 0
    roi: RegionOfInterest = RegionOfInterest()


@dataclass(frozen=True)
class PointField(Message):
    """One number of a point; `datatype` 7 is float32."""

    ros_type = "sensor_msgs/msg/PointField"
    name: str
    offset: int
    datatype: int
    count: int = 1


@dataclass(frozen=True)
class PointCloud2(Message):
    """An organised cloud, one point for each pixel; `data` is uint8 `(height * row_step,)`."""

    ros_type = "sensor_msgs/msg/PointCloud2"
    header: Header
    height: int
    width: int
    fields: tuple[PointField, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: np.ndarray
    is_dense: bool


@dataclass(frozen=True)
class VisionClass(Message):
    """The name of a class index."""

    ros_type = "vision_msgs/msg/VisionClass"
    class_id: int
    class_name: str


@dataclass(frozen=True)
class LabelInfo(Message):
    """The names of all classes of a mask; `threshold` is not used by an argmax and is 0."""

    ros_type = "vision_msgs/msg/LabelInfo"
    header: Header
    class_map: tuple[VisionClass, ...]
    threshold: float = 0.0


@dataclass(frozen=True)
class KeyValue(Message):
    """One line of a diagnostic status."""

    ros_type = "diagnostic_msgs/msg/KeyValue"
    key: str
    value: str


@dataclass(frozen=True)
class DiagnosticStatus(Message):
    """The state of one part of a robot; `level` is 0 for OK, 1 for a warning, 2 for an error."""

    ros_type = "diagnostic_msgs/msg/DiagnosticStatus"
    level: int
    name: str
    message: str
    hardware_id: str = ""
    values: tuple[KeyValue, ...] = ()


@dataclass(frozen=True)
class DiagnosticArray(Message):
    """The states of several parts at one time."""

    ros_type = "diagnostic_msgs/msg/DiagnosticArray"
    header: Header
    status: tuple[DiagnosticStatus, ...] = field(default=())


def as_ros(message: Message, find: FindClass) -> Any:
    """Return a message of the class that `find` returns for its type; so are all messages inside.

    Tuples become lists, and arrays stay numpy arrays.

    >>> store = rosbags.typesys.get_typestore(rosbags.typesys.Stores.ROS2_HUMBLE)
    >>> as_ros(image, store.types.__getitem__)
    """
    names = [one.name for one in dataclasses.fields(message)]  # type: ignore[arg-type]
    fields = {name: _value(getattr(message, name), find) for name in names}
    return find(message.ros_type)(**fields)


def _value(value: Any, find: FindClass) -> Any:
    if isinstance(value, Message):
        return as_ros(value, find)
    if isinstance(value, tuple):
        return [_value(one, find) for one in value]
    return value
