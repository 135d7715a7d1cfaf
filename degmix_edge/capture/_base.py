"""What every source of frames gives, and the interface that a stream reads it by."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from degmix_edge.camera import FrameFormat

Replay: TypeAlias = Literal["timed", "fast"]
"""How a recording is read: at the times of its stamps, or as fast as frames are taken."""


@dataclass(frozen=True)
class CapturedFrame:
    """One frame of a camera, with three clocks that are never mixed.

    Attributes:
        image: What a session takes: an array of `format`, a path, a Pillow image or, of a network
            with several inputs, a mapping from their names.
        received_ns: When this process got the frame, on `time.monotonic_ns`.
        captured_ns: When light fell on the sensor, or when a recording replays that moment, on
            `time.monotonic_ns`. None is unknown, and then the frame's age is unknown too.
        stamp_ns: The acquisition time that travels with the frame: nanoseconds since 1970 or since
            a recording's own start. Everything that is made of the frame copies it. None is
            unknown.
        stamp_source: Where the stamp comes from, such as `driver` or `caller`.
        index: How many frames this source gave before.
        lost: Frames that the driver or the network lost just before this one.
        frame_id: The camera's coordinate frame, as in a ROS header.
        format: What the bytes of an array are.
        intrinsics: The camera matrix `(3, 3)` in pixels of this frame, where the source knows it.
    """

    image: Any
    received_ns: int
    captured_ns: int | None = None
    stamp_ns: int | None = None
    stamp_source: str = "unknown"
    index: int = 0
    lost: int = 0
    frame_id: str = ""
    format: FrameFormat = "rgb"
    intrinsics: np.ndarray | None = None


@dataclass(frozen=True)
class SourceOptions:
    """What a user may ask of a source. None leaves a value to the source.

    Attributes:
        size: Height and width in pixels.
        rate_hz: Frames a second.
        format: Bytes of the frames, where a camera offers several.
        replay: How a recording is read.
        loop: Whether a recording begins again at its end.
        topic: Which topic of a recording with several holds the images.
    """

    size: tuple[int, int] | None = None
    rate_hz: float | None = None
    format: FrameFormat | None = None
    replay: Replay = "timed"
    loop: bool = False
    topic: str | None = None


class Source(ABC):
    """A camera, a recording or anything else that gives frames one after the other.

    One thread opens, reads and closes a source. It may be opened again after it was closed, which
    is how a stream reconnects.

    Attributes:
        name: What messages call the source.
        is_live: Whether frames come when they come, so that one that nobody takes is dropped. A
            source that is not live waits, and no frame of it is lost.
        skipped: Frames that were ready and not given, because a newer one was ready too.
    """

    name: str
    is_live: bool = True
    skipped: int = 0

    @abstractmethod
    def open(self) -> None:
        """Make ready to read.

        Raises:
            SourceError: There is no such source, it is busy, or it has no format that we read.
        """

    @abstractmethod
    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Wait for the next frame and return it; None is the end.

        It returns None within a second of `stop` being set, however long the next frame takes.

        Raises:
            SourceError: The source broke. A stream opens a live one again.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the device. It may be called more than once."""
