"""Recordings of ROS 2: an MCAP file with one topic for each task."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge._version import __version__
from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import InputError
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.messages import (
    DEFINITIONS,
    ENCODINGS,
    IMAGE_TYPE,
    INFO_TYPE,
    LABELS_TYPE,
    CameraContent,
    ImageContent,
    camera_content,
    class_map,
    frame_content,
    group,
    map_content,
    map_topic,
    seconds_and_rest,
)
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions, need
from degmix_edge.sinks._file import FileSink
from degmix_edge.sinks._picture import pixels_of
from degmix_edge.tasks import TaskSpec

EXPECTED = "a recording to write (.mcap)"
VOLATILE, TRANSIENT_LOCAL = 2, 1
"""ROS's numbers of a topic's durability; the second keeps the last message for late readers."""
QOS = """- history: 1
  depth: 1
  reliability: 1
  durability: {durability}
  deadline: {{sec: 2147483647, nsec: 4294967295}}
  lifespan: {{sec: 2147483647, nsec: 4294967295}}
  liveliness: 1
  liveliness_lease_duration: {{sec: 2147483647, nsec: 4294967295}}
  avoid_ros_namespace_conventions: false
"""
"""The QoS that a player offers, in the form of rosbag2: reliable, and keeps the last message."""


def recognises(text: str) -> bool:
    """Return whether a text is the path of a recording, by its ending."""
    return text.lower().endswith(".mcap")


def open_sink(text: str, network: NetworkSpec, options: SinkOptions) -> Sink:
    """Return a recording of the network's maps."""
    return McapSink(Path(text), network, options)


class McapSink(FileSink):
    """A recording that tools of ROS 2 and Foxglove read.

    Each task has the topic `/<camera>/<group>/image`, or `mask` where its pixels are class indices,
    with a message for each frame that the task ran on. `messages.map_content` describes the pixels.
    The class names of a task are one `vision_msgs/LabelInfo` on `label_info` beside it, and where
    the camera matrix is known, `camera_info` beside it describes the map. The camera's own images
    are on `/<camera>/image_raw`, if they are asked for.

    Stamps and coordinate frames are those of the camera's frames, and messages are logged at their
    stamps. A frame without a stamp has a stamp of zero, and is logged at the time of its receipt.

    Args:
        path: The file.
        network: What computes the maps.
        options: Which tasks, and whether the images too.

    Raises:
        OutputError: The file exists, or cannot be written.
        ConfigError: A task does not exist, or a package is missing.
    """

    def __init__(self, path: Path, network: NetworkSpec, options: SinkOptions) -> None:
        for module in ("mcap", "rosbags"):
            need(module, "bags", str(path))
        self._network, self._with_image = network, options.image
        self._tasks = {task.name: task for task in options.chosen(network)}
        super().__init__(path, options)
        self._store = _typestore()
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}

    def _begin(self, part: Path, opened: contextlib.ExitStack) -> None:
        from mcap.writer import CompressionType, Writer

        file = opened.enter_context(part.open("wb"))
        self._writer: Any = Writer(file, compression=CompressionType.LZ4)
        self._writer.start("ros2", f"degmix-edge {__version__}")

    def _finish(self) -> None:
        self._writer.finish()

    def _add(self, result: StreamResult) -> None:
        frame, camera = result.frame, "/" + re.sub(r"\W", "_", result.camera, flags=re.ASCII)
        if self._with_image:
            self._add_image(f"{camera}/image_raw", frame, self._frame_content(frame))
            if frame.intrinsics is not None:
                self._add_camera(camera, frame, self._own_camera(frame, result))
        for name in result.fresh:
            if name in self._tasks:
                self._add_map(camera, frame, result.maps[name])

    def _add_map(self, camera: str, frame: CapturedFrame, task_map: TaskMap) -> None:
        task = task_map.spec
        beside = f"{camera}/{group(task)}"
        if task.has_labels and f"{beside}/label_info" not in self._channels:
            self._add_labels(f"{beside}/label_info", frame, task)
        topic = f"{camera}/{map_topic(task, self._network.tasks)}"
        self._add_image(topic, frame, map_content(task_map))
        if frame.intrinsics is not None:
            self._add_camera(beside, frame, camera_content(frame.intrinsics, task_map.placement))

    def _add_image(self, topic: str, frame: CapturedFrame, content: ImageContent) -> None:
        fields = {
            "height": content.height,
            "width": content.width,
            "encoding": content.encoding,
            "is_bigendian": content.is_bigendian,
            "step": content.step,
            "data": content.data,
        }
        self._write_message(topic, IMAGE_TYPE, frame, fields)

    def _add_camera(self, beside: str, frame: CapturedFrame, content: CameraContent) -> None:
        region = self._store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        fields = {
            "height": content.height,
            "width": content.width,
            "distortion_model": "",
            "d": np.zeros(0),
            "k": content.matrix.ravel(),
            "r": np.eye(3).ravel(),
            "p": content.projection.ravel(),
            "binning_x": 0,
            "binning_y": 0,
            "roi": region,
        }
        self._write_message(f"{beside}/camera_info", INFO_TYPE, frame, fields)

    def _add_labels(self, topic: str, frame: CapturedFrame, task: TaskSpec) -> None:
        vision_class = self._store.types["vision_msgs/msg/VisionClass"]
        classes = [vision_class(index, name) for index, name in class_map(task)]
        fields = {"class_map": classes, "threshold": 0.0}
        self._write_message(topic, LABELS_TYPE, frame, fields, TRANSIENT_LOCAL)

    def _write_message(
        self,
        topic: str,
        kind: str,
        frame: CapturedFrame,
        fields: dict[str, Any],
        durability: int = VOLATILE,
    ) -> None:
        types = self._store.types
        stamp = types["builtin_interfaces/msg/Time"](*seconds_and_rest(frame.stamp_ns))
        header = types["std_msgs/msg/Header"](stamp, frame.frame_id)
        content = self._store.serialize_cdr(types[kind](header=header, **fields), kind)
        logged = frame.stamp_ns
        if logged is None:
            logged = time.time_ns() - (time.monotonic_ns() - frame.received_ns)
        channel = self._channel(topic, kind, durability)
        self._writer.add_message(channel, logged, bytes(content), logged)

    def _channel(self, topic: str, kind: str, durability: int) -> int:
        if topic not in self._channels:
            if kind not in self._schemas:
                text, _ = self._store.generate_msgdef(kind, ros_version=2)
                self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", text.encode())
            about = {
                "offered_qos_profiles": QOS.format(durability=durability),
                "topic_type_hash": self._store.hash_rihs01(kind),
            }
            schema = self._schemas[kind]
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schema, about)
        return self._channels[topic]

    def _frame_content(self, frame: CapturedFrame) -> ImageContent:
        is_array = isinstance(frame.image, np.ndarray) and frame.format in ENCODINGS
        if is_array and not self._network.takes_map:
            with contextlib.suppress(InputError):  # such as an image in shades of grey
                return frame_content(frame.image, frame.format)
        return frame_content(pixels_of(frame, self._network), "rgb")

    def _own_camera(self, frame: CapturedFrame, result: StreamResult) -> CameraContent:
        placement = next(iter(result.maps.values())).placement
        height, width = placement.image_height, placement.image_width
        return CameraContent(height, width, np.asarray(frame.intrinsics, np.float64))


def _typestore() -> Any:
    """The messages of ROS 2, which are the same in all distributions, and those of vision_msgs."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for name, text in DEFINITIONS.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store
