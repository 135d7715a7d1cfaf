"""The maps' side of the node: publishers by task, and no message that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from degmix_edge.network import NetworkSpec
from degmix_edge.ros import messages
from degmix_edge.ros._rclpy import has_vision_messages, to_ros
from degmix_edge.ros.camera import profile
from degmix_edge.ros.settings import Settings
from degmix_edge.ros.types import CameraInfo, Header, Message, Time
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.messages import is_depth, is_metric, map_topic
from degmix_edge.runtime.results import StreamResult
from degmix_edge.tasks import TaskSpec


class TaskOutput:
    """The publishers of one task.

    A map, its picture for people (`view`) and its calibration are offered by every task, class
    names by a task with labels, and a cloud by depth in metres.

    Args:
        ros: The node of rclpy.
        spec: The task.
        network: The network, with its other tasks.
        settings: Reliability and size of the maps.
    """

    def __init__(self, ros: Any, spec: TaskSpec, network: NetworkSpec, settings: Settings) -> None:
        from sensor_msgs.msg import CameraInfo as RosInfo
        from sensor_msgs.msg import Image, PointCloud2

        self.spec, self._ros, self._settings = spec, ros, settings
        topic = map_topic(spec, network.tasks)
        base = topic.rpartition("/")[0]
        qos = profile(settings.output_reliability)
        self.topic = topic
        self.map = ros.create_publisher(Image, topic, qos)
        self.publishers = {"map": self.map}
        # Confidence lies beside a mask, whose picture and calibration serve both.
        if topic.rpartition("/")[2] != "confidence":
            self.publishers["view"] = ros.create_publisher(Image, f"{base}/view", qos)
            self.publishers["info"] = ros.create_publisher(RosInfo, f"{base}/camera_info", qos)
        if is_depth(spec) and is_metric(spec):
            self.publishers["cloud"] = ros.create_publisher(PointCloud2, f"{base}/points", qos)
        if spec.has_labels and has_vision_messages():
            self._publish_labels(base)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody subscribes to what the task computes."""
        return any(self.has_reader(kind) for kind in ("map", "view", "cloud"))

    def has_reader(self, kind: str) -> bool:
        """Whether anybody subscribes to one of the task's topics."""
        publisher = self.publishers.get(kind)
        return publisher is not None and publisher.get_subscription_count() > 0

    def publish(
        self,
        result: StreamResult,
        info: CameraInfo | None,
        like: TaskMap,
        strides: Mapping[str, int],
    ) -> None:
        """Publish what is read of a fresh map.

        Args:
            result: The result with the map.
            info: The camera's calibration; None where it is unknown.
            like: The map whose pixels a cloud has.
            strides: By task, one pixel of so many in each direction.
        """
        task_map, header = result.maps[self.spec.name], messages.header_of(result)
        native = self._settings.native
        shape: Mapping[str, Any] = {"native": native, "stride": strides[self.spec.name]}
        if self.has_reader("map"):
            self._send("map", messages.image_message(task_map, header, **shape))
        if self.has_reader("view"):
            self._send("view", messages.view_message(task_map, header, **shape))
        if info is None:
            return
        if self.has_reader("info"):
            self._send("info", messages.camera_info(info, task_map, header, **shape))
        if self.has_reader("cloud") and messages.is_calibrated(info):
            shape = {"native": native, "stride": strides[like.task]}
            own = messages.camera_info(info, like, header, **shape)
            self._send("cloud", messages.cloud(messages.depth_values(task_map, like, **shape), own))

    def close(self) -> None:
        """Take the topics away."""
        for publisher in self.publishers.values():
            self._ros.destroy_publisher(publisher)
        self.publishers = {}

    def _send(self, kind: str, message: Message) -> None:
        self.publishers[kind].publish(to_ros(message))

    def _publish_labels(self, base: str) -> None:
        """Publish the class names once; whoever subscribes later gets them too."""
        from vision_msgs.msg import LabelInfo

        qos = profile("reliable", is_latched=True)
        labels = self._ros.create_publisher(LabelInfo, f"{base}/label_info", qos)
        self.publishers["labels"] = labels
        now = self._ros.get_clock().now().to_msg()
        header = Header(Time(now.sec, now.nanosec))
        labels.publish(to_ros(messages.label_info(self.spec, header)))


def outputs_of(ros: Any, network: NetworkSpec, settings: Settings) -> dict[str, TaskOutput]:
    """Return the publishers by task; a raw tensor is no map and has none.

    Without `vision_msgs` class names are not published, and the log says so.
    """
    maps = [task for task in network.tasks if not task.is_raw]
    if any(task.has_labels for task in maps) and not has_vision_messages():
        ros.get_logger().warning(
            "vision_msgs is not installed, so label_info with the class names is not published: "
            "sudo apt install ros-$ROS_DISTRO-vision-msgs"
        )
    return {task.name: TaskOutput(ros, task, network, settings) for task in maps}
