"""Recordings of ROS: MCAP files, bags of ROS 2 and ROS 1, with raw or compressed images."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from degmix_edge.camera import FrameFormat
from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._checks import is_path, need, only
from degmix_edge.capture._replay import ReplayClock
from degmix_edge.capture._ros_image import image_of
from degmix_edge.errors import DegmixWarning, InputError, SourceError
from degmix_edge.preprocess import read_image
from degmix_edge.registry import unknown

EXPECTED = "a recording (.mcap, .db3, .bag, or a folder with metadata.yaml)"
ENDINGS = (".mcap", ".db3", ".bag")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"


def recognises(text: str) -> bool:
    """Return whether a text is the path of a recording, by its ending or its metadata.yaml."""
    is_file = text.lower().endswith(ENDINGS)
    return is_path(text) and (is_file or (Path(text) / "metadata.yaml").is_file())


def open_source(text: str, options: SourceOptions) -> Source:
    """Return the recording's images on one topic."""
    only(options, text, "replay", "loop", "topic")
    return BagSource(text, options)


class _Message(NamedTuple):
    """One image of the recording that is not decoded yet."""

    logged_ns: int
    raw: bytes
    kind: str
    intrinsics: Any
    lap: int


class BagSource(Source):
    """A source that replays the images of one topic, with their stamps and frame_id.

    A timed replay follows the times at which messages were recorded. It behaves as a camera: an
    image whose successor is due already is not decoded and counts in `skipped`. A fast replay gives
    every image, as soon as it is taken. The camera matrix comes from the CameraInfo beside the
    images, with its binning and region of interest; of all zeros it is unknown.

    Args:
        path: A file or a folder.
        options: `replay`, `loop` and `topic`.

    Attributes:
        skipped: Images that were due and not taken.
        jumps: How often a stamp was before that of the image before it. Such images are given as
            they are.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        self.name, self.path, self.options = path, Path(path), options
        self.is_live = options.replay == "timed"
        self.skipped = self.jumps = 0
        self._stack = contextlib.ExitStack()
        self._reader: Any = None
        self._topics: list[Any] = []
        self._warned: set[str] = set()
        self._start()

    def _start(self) -> None:
        self._clock = ReplayClock()
        self._index = 0
        self._stamp = (0, 0)  # with the lap, because a recording that begins again does not jump
        self._matrix: np.ndarray | None = None
        self._messages: Iterator[_Message] = iter(())
        self._ahead: _Message | None = None

    def open(self) -> None:
        """Open the recording and find the topic of the images.

        Raises:
            SourceError: There is no such recording, it is damaged, it has no images that are read,
                or it has several topics with images and `topic` names none of them.
            ConfigError: `rosbags` is not installed.
        """
        need("rosbags", "bags", self.name)
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        self.close()
        self._start()
        if not self.path.exists():
            raise SourceError(f"{self.path}: no such recording")
        try:
            with self._errors():
                # Bags of Humble and before lack the definitions of their messages.
                types = get_typestore(Stores.ROS2_HUMBLE)
                reader = AnyReader([self.path], default_typestore=types)
                self._reader = self._stack.enter_context(reader)
                self._topics = self._chosen()
                self._read_first_info()
                self._messages = self._images()
                first = self._ahead = next(self._messages)
                self._image(self._reader.deserialize(first.raw, first.kind))
        except SourceError:
            self.close()
            raise

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Return the image that is due next.

        Raises:
            SourceError: The image is damaged. In a timed replay it is lost, and the next one comes.
        """
        lost = 0
        while not stop.is_set():
            with self._errors():
                message = self._take()
                while self.is_live and self._ahead is not None:
                    if not self._clock.is_past(self._ahead.logged_ns):
                        break
                    self.skipped += 1
                    message = self._take()
            if message is None:
                return None
            try:
                with self._errors():
                    content = self._reader.deserialize(message.raw, message.kind)
                    image, kind = self._image(content)
                    stamp, frame_id = self._stamp_of(message, content), content.header.frame_id
            except SourceError as error:
                if not self.is_live:
                    raise
                self._warn("damaged", f"{error}; it is lost")
                lost += 1
                continue
            due = self._clock.wait(message.logged_ns, stop) if self.is_live else None
            if stop.is_set():
                return None
            index, self._index = self._index, self._index + 1
            return CapturedFrame(
                image,
                time.monotonic_ns(),
                due,
                stamp,
                "header",
                index=index,
                lost=lost,
                frame_id=frame_id,
                format=kind,
                intrinsics=message.intrinsics,
            )
        return None

    def close(self) -> None:
        """Close the files."""
        self._messages, self._ahead, self._reader = iter(()), None, None
        self._stack.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except Exception as error:  # whatever a damaged file makes its reader raise
            detail = str(error) or type(error).__name__
            raise SourceError(f"{self.path}: this recording cannot be read: {detail}") from error

    def _chosen(self) -> list[Any]:
        """The connections of the topic to read, and of the CameraInfo beside it."""
        of_type: dict[str, str] = {c.topic: c.msgtype for c in self._reader.connections}
        counts: dict[str, int] = dict.fromkeys(of_type, 0)
        for connection in self._reader.connections:
            counts[connection.topic] += connection.msgcount
        images = sorted(t for t, kind in of_type.items() if kind in (IMAGE, COMPRESSED))
        listed = ", ".join(f"{topic} ({counts[topic]} of {of_type[topic]})" for topic in images)
        topic = self.options.topic
        if not images:
            have = ", ".join(f"{t} ({kind})" for t, kind in sorted(of_type.items())) or "nothing"
            raise SourceError(
                f"{self.path}: no topic with images; expected {IMAGE} or {COMPRESSED}, found {have}"
            )
        if topic is None:
            used = [t for t in images if counts[t]] or images
            if len(used) > 1:
                raise SourceError(
                    f"{self.path}: several topics have images; choose one with `topic`: {listed}"
                )
            topic = used[0]
        if topic not in images:
            raise SourceError(f"{self.path}: {unknown('topic with images', topic, images)}")
        if not counts[topic]:
            raise SourceError(f"{self.path}: topic {topic} has no messages")
        names = (topic, _info_topic(topic, of_type[topic] == COMPRESSED))
        kinds = (IMAGE, COMPRESSED, INFO)
        return [c for c in self._reader.connections if c.topic in names and c.msgtype in kinds]

    def _read_first_info(self) -> None:
        """Read the camera matrix that holds for images before the first CameraInfo."""
        infos = [c for c in self._topics if c.msgtype == INFO]
        for connection, _, raw in self._reader.messages(infos) if infos else ():
            self._matrix = self._intrinsics(self._reader.deserialize(raw, connection.msgtype))
            break

    def _images(self) -> Iterator[_Message]:
        for lap in itertools.count():
            for connection, logged_ns, raw in self._reader.messages(self._topics):
                if connection.msgtype == INFO:
                    info = self._reader.deserialize(raw, INFO)
                    self._matrix = self._intrinsics(info)
                else:
                    yield _Message(logged_ns, raw, connection.msgtype, self._matrix, lap)
            if not self.options.loop:
                return

    def _take(self) -> _Message | None:
        """Return the next image, and look one image ahead."""
        message = self._ahead or next(self._messages, None)
        self._ahead = next(self._messages, None)
        return message

    def _stamp_of(self, message: _Message, content: Any) -> int:
        time_of = content.header.stamp
        stamp: int = time_of.sec * 10**9 + time_of.nanosec
        if (message.lap, stamp) < self._stamp:
            self.jumps += 1
            self._warn("jump", f"stamps jump back, at {stamp} ns from {self._stamp[1]} ns")
        self._stamp = message.lap, stamp
        return stamp

    def _image(self, content: Any) -> tuple[np.ndarray, FrameFormat]:
        what = ""
        try:
            image, kind = image_of(content)
            if not isinstance(image, np.ndarray):
                what = f"an image of {content.format!r}: "
                image = read_image(image)
        except InputError as error:
            raise SourceError(f"{self.path}: {what}{error}") from error
        return image, kind

    def _intrinsics(self, info: Any) -> np.ndarray | None:
        """The camera matrix in pixels of the images, of the sensor's whole size in K."""
        k = info.k if hasattr(info, "k") else info.K
        matrix: np.ndarray = np.array(k, np.float64).reshape(3, 3)
        if not matrix.any():
            self._warn("zeros", "CameraInfo has a K of all zeros, so the camera is not calibrated")
            return None
        matrix[0, 2] -= info.roi.x_offset
        matrix[1, 2] -= info.roi.y_offset
        matrix[0] /= max(1, info.binning_x)
        matrix[1] /= max(1, info.binning_y)
        return matrix

    def _warn(self, reason: str, text: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            text = text.removeprefix(f"{self.path}: ")
            warnings.warn(f"{self.path}: {text}", DegmixWarning, stacklevel=2)


def _info_topic(topic: str, is_compressed: bool) -> str:
    """The topic of CameraInfo that belongs to one of images, by the rule of image_transport."""
    base = topic.rpartition("/")[0] if is_compressed and topic.count("/") > 1 else topic
    return f"{base.rpartition('/')[0]}/camera_info"
