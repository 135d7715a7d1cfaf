"""What a stream gives for a frame, and what it counts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from degmix_edge.capture import CapturedFrame
from degmix_edge.runtime.maps import Maps

NEWER_FRAME = "newer frame"
NEWER_RESULT = "newer result"
TOO_OLD = "too old"
NOT_DUE = "no task due"
REFUSED = "refused"
STOPPED = "stopped"
CAUSES = (NEWER_FRAME, NEWER_RESULT, TOO_OLD, NOT_DUE, REFUSED, STOPPED)
"""Why a frame was not delivered: a newer frame came before the network was free; a newer result
came before the consumer was; the frame was older than `max_age_ms`; no task was due; the network
cannot take the frame; or the stream was stopped while the frame was in it."""


@dataclass(frozen=True)
class StreamResult:
    """The maps of one frame.

    Attributes:
        camera: Which source the frame came from.
        frame: The frame, with its stamp and its other clocks.
        maps: By task, the newest map that there is: of this frame for the tasks in `fresh`, held
            from an earlier frame for the others.
        fresh: Tasks that ran on this frame.
        frames_old: By task, how many of the camera's frames ago its map was computed; 0 is fresh.
            Frames that were dropped count too.
        stages: Milliseconds by part: `queue_ms` from the receipt until the network was free,
            `pre_ms`, `net_ms` and `post_ms` as in `Latency`, and `take_ms` until the consumer took
            the result.
        computed_ns: When the maps were ready, on `time.monotonic_ns`.
        age_ms: Milliseconds from the capture until the consumer took the result; None where the
            source does not know when the frame was captured.
    """

    camera: str
    frame: CapturedFrame
    maps: Maps
    fresh: tuple[str, ...]
    frames_old: Mapping[str, int]
    stages: Mapping[str, float]
    computed_ns: int
    age_ms: float | None = None

    @property
    def stamp_ns(self) -> int | None:
        """The frame's acquisition time, to copy into whatever is made of the maps."""
        return self.frame.stamp_ns


@dataclass
class CameraStats:
    """What happened to one camera's frames.

    At any moment `captured` is the sum of `delivered`, `dropped` and `in_stream`.

    Attributes:
        captured: Frames that the source gave.
        delivered: Results that the consumer took.
        late: Those among them that were older than `max_age_ms`.
        dropped: Frames by the cause of their loss; see `CAUSES`.
        in_stream: Frames on their way.
        lost: Frames that the driver or the network lost before this process saw them.
        skipped: Frames that were ready in the source and not taken, because a newer one was too.
        reconnects: How often the source broke and was opened again.
        stamps_back: Frames whose stamp was earlier than that of the frame before.
        runs: How often each task ran.
        last_error: Why the source broke, or the network refused a frame, the last time.
    """

    captured: int = 0
    delivered: int = 0
    late: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    in_stream: int = 0
    lost: int = 0
    skipped: int = 0
    reconnects: int = 0
    stamps_back: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    last_error: str = ""

    def drop(self, cause: str) -> None:
        """Count a frame that is lost on its way."""
        self.dropped[cause] += 1
        self.in_stream -= 1


@dataclass(frozen=True)
class StreamStats:
    """A snapshot of a stream's counts.

    Attributes:
        cameras: By camera.
        age_ms: `p50`, `p95`, `p99` and `max` of the ages of the last 1024 results whose age is
            known, in milliseconds; empty where there are none.
        over_budget: Calls that took longer than the budget.
        starved: By camera and task, for how many seconds a task has waited for at least three of
            its periods.
    """

    cameras: Mapping[str, CameraStats]
    age_ms: Mapping[str, float]
    over_budget: int
    starved: Mapping[str, Mapping[str, float]]


def age_ms(frame: CapturedFrame) -> float | None:
    """Milliseconds since a frame was captured; None where that moment is unknown."""
    if frame.captured_ns is None:
        return None
    return (time.monotonic_ns() - frame.captured_ns) / 1e6
