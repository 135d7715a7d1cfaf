"""The camera's side of the node: its images and its calibration, newest wins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from degmix_edge.ros.settings import Settings
from degmix_edge.ros.types import CameraInfo, Header, RegionOfInterest, Time

OLDEST_NS = 60 * 10**9
"""A stamp that is older, or in the future, is of another clock, and the age is unknown."""
QUIET_S = 5.0
"""Seconds without a publisher after which the node says so."""
AGAIN_S = 30.0
"""Seconds between two such messages."""


def stamp_ns(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def captured_ns(stamp: int, now: int) -> int | None:
    """Return the moment of a stamp on `time.monotonic_ns`; None where its clock is another one.

    Args:
        stamp: Nanoseconds of the stamp.
        now: Nanoseconds of the node's clock.
    """
    return time.monotonic_ns() - (now - stamp) if 0 <= now - stamp < OLDEST_NS else None


def calibration_of(message: Any) -> CameraInfo:
    """Return a CameraInfo of rclpy as plain data."""
    roi = message.roi
    region = RegionOfInterest(roi.x_offset, roi.y_offset, roi.height, roi.width, roi.do_rectify)
    d, k, r, p = (np.array(getattr(message, name), np.float64) for name in "dkrp")
    stamp = Time(message.header.stamp.sec, message.header.stamp.nanosec)
    return CameraInfo(
        Header(stamp, message.header.frame_id),
        message.height,
        message.width,
        message.distortion_model,
        d,
        k,
        r,
        p,
        message.binning_x,
        message.binning_y,
        region,
    )


class CameraTopics:
    """Subscribes to the camera while somebody wants maps, with the reliability that it offers.

    Args:
        ros: The node of rclpy.
        settings: Topics, transport and reliability.
        on_image: Called with each image, by the executor.
        on_info: Called with each calibration, by the executor.

    Attributes:
        topic: The full name of the images' topic.
        reliability: The reliability of the subscription; empty where there is none.
    """

    def __init__(
        self,
        ros: Any,
        settings: Settings,
        on_image: Callable[[Any], None],
        on_info: Callable[[Any], None],
    ) -> None:
        self._ros, self._settings = ros, settings
        self._on_image, self._on_info = on_image, on_info
        base = ros.resolve_topic_name(settings.image_topic)
        compressed = settings.image_transport == "compressed"
        self.topic = f"{base}/compressed" if compressed else base
        info = settings.camera_info_topic or f"{base.rpartition('/')[0]}/camera_info"
        self.info_topic = ros.resolve_topic_name(info)
        self.reliability = ""
        self._subscriptions: list[Any] = []
        self._say_at = time.monotonic() + QUIET_S

    @property
    def has_publisher(self) -> bool:
        """Whether anybody publishes the images now."""
        return bool(self._ros.count_publishers(self.topic))

    def update(self, *, is_wanted: bool) -> None:
        """Subscribe or unsubscribe, as the camera and the consumers of maps come and go."""
        offered = self._offered() if is_wanted else ""
        if offered and offered != self.reliability:
            self.close()
            self._subscribe(offered)
        elif not is_wanted and self._subscriptions:
            self.close()
        now = time.monotonic()
        if self.has_publisher:
            self._say_at = now + QUIET_S
        elif now > self._say_at:
            self._say_at = now + AGAIN_S
            self._say_quiet()

    def close(self) -> None:
        """Unsubscribe."""
        for one in self._subscriptions:
            self._ros.destroy_subscription(one)
        self._subscriptions, self.reliability = [], ""

    def _offered(self) -> str:
        """The reliability that all publishers offer; empty where there is no publisher."""
        infos = self._ros.get_publishers_info_by_topic(self.topic)
        if not infos:
            return ""
        if self._settings.input_reliability != "auto":
            return self._settings.input_reliability
        kinds = {info.qos_profile.reliability.name.lower() for info in infos}
        return "reliable" if kinds == {"reliable"} else "best_effort"

    def _subscribe(self, reliability: str) -> None:
        from sensor_msgs.msg import CameraInfo as RosInfo
        from sensor_msgs.msg import CompressedImage, Image

        is_raw = self._settings.image_transport == "raw"
        qos = profile(reliability)
        # The matrix of a camera that offers less is better than none.
        loose = profile("best_effort")
        make = self._ros.create_subscription
        self._subscriptions = [
            make(Image if is_raw else CompressedImage, self.topic, self._on_image, qos),
            make(RosInfo, self.info_topic, self._on_info, loose),
        ]
        self.reliability = reliability
        self._ros.get_logger().info(f"subscribed to {self.topic} ({reliability}, depth 1)")

    def _say_quiet(self) -> None:
        kind = "Image" if self._settings.image_transport == "raw" else "CompressedImage"
        wanted = f"sensor_msgs/msg/{kind}"
        own = self._ros.get_fully_qualified_name()
        topics = [
            name
            for name, kinds in self._ros.get_topic_names_and_types()
            if wanted in kinds
            and any(
                f"{one.node_namespace.rstrip('/')}/{one.node_name}" != own
                for one in self._ros.get_publishers_info_by_topic(name)
            )
        ]
        have = ", ".join(topics) or "none"
        self._ros.get_logger().warning(
            f"nobody publishes {self.topic}; the node waits for it. Topics with {wanted}: {have}. "
            f"Remap it: --ros-args -r {self._settings.image_topic}:={(topics or ['TOPIC'])[0]}"
        )


def profile(reliability: str, *, is_latched: bool = False) -> Any:
    """Return a QoS profile of rclpy with depth 1, so that the newest message wins."""
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

    durability = DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=durability,
    )
