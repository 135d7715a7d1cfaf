"""One camera on its way through a stream: its newest frame, its newest result, and its counts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from degmix_edge.camera import FrameFormat
from degmix_edge.capture import CapturedFrame, Source
from degmix_edge.errors import SourceError
from degmix_edge.runtime.maps import Maps, TaskMap
from degmix_edge.runtime.results import NEWER_FRAME, NEWER_RESULT, CameraStats, StreamResult
from degmix_edge.runtime.schedule import Schedule
from degmix_edge.runtime.session import Session

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
"""Seconds before a source that broke is opened again; each failure doubles them, up to a limit."""
_log = logging.getLogger("degmix_edge.stream")


class Lane:
    """The state of one camera. The stream's lock guards what several threads use.

    Attributes:
        frame: The newest frame, which nobody has computed yet.
        result: The newest result, which nobody has taken yet.
        last_call: The number of the stream's call that computed its last frame.
        waits_since: The number of the call since which a result waits.
        has_ended: Whether the source will give no more frames.
    """

    def __init__(self, name: str, source: Source | None, session: Session, plan: Schedule) -> None:
        self.name, self.source, self.schedule = name, source, plan
        self.is_live = source is None or source.is_live
        self.frame: CapturedFrame | None = None
        self.result: StreamResult | None = None
        self.stats = CameraStats(runs=dict.fromkeys(session.spec.task_names, 0))
        self.sequence = session.sequence()
        self.last_call = self.waits_since = self.refused_in_row = 0
        self.has_ended = False
        self.now_s = 0.0
        self._names = session.spec.task_names
        self._held: dict[str, tuple[TaskMap, int]] = {}
        self._stamp_ns: int | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a frame waits that may be computed now; what is not live waits for its reader."""
        return self.frame is not None and (self.is_live or self.result is None)

    @property
    def format(self) -> FrameFormat | None:
        """What the bytes of the frame are that waits."""
        return self.frame.format if self.frame else None

    def put_frame(self, frame: CapturedFrame) -> None:
        """Lay a frame down for the worker; one that still lies there is dropped."""
        stats = self.stats
        stats.captured += 1
        stats.in_stream += 1
        stats.lost += frame.lost
        stats.skipped = self.source.skipped if self.source else 0
        if frame.stamp_ns is not None:
            stats.stamps_back += self._stamp_ns is not None and frame.stamp_ns < self._stamp_ns
            self._stamp_ns = frame.stamp_ns
        if self.frame is not None:
            stats.drop(NEWER_FRAME)
        # A source that is opened again counts from 0 again.
        self.frame = dataclasses.replace(frame, index=stats.captured - 1)

    def take_frame(self) -> CapturedFrame:
        """Take the frame away and note its time."""
        frame, self.frame = self.frame, None
        assert frame is not None
        self.now_s = self._time_s(frame)
        return frame

    def put_result(self, result: StreamResult, call: int) -> None:
        """Lay a result down for the consumer; one that still lies there is dropped."""
        for task in result.fresh:
            self.stats.runs[task] += 1
        self.last_call = call
        if self.result is None:
            self.waits_since = call
        else:
            self.stats.drop(NEWER_RESULT)
        self.result = result

    def take_result(self) -> StreamResult:
        """Take the result away."""
        result, self.result = self.result, None
        assert result is not None
        self.stats.delivered += 1
        self.stats.in_stream -= 1
        return result

    def result_of(
        self,
        frame: CapturedFrame,
        tasks: tuple[str, ...],
        maps: Maps,
        *,
        start_ns: int,
        done_ns: int,
    ) -> StreamResult:
        """The result of a frame: its own maps, and held ones of the tasks that did not run."""
        latency = maps.latency
        assert latency is not None  # a session computed them
        for task in tasks:
            self._held[task] = maps[task], frame.index
        names = [name for name in self._names if name in self._held]
        newest = Maps({name: self._held[name][0] for name in names})
        newest.latency = latency
        stages = {
            "queue_ms": (start_ns - frame.received_ns) / 1e6,
            "pre_ms": latency.pre_ms,
            "net_ms": latency.net_ms,
            "post_ms": latency.post_ms,
        }
        ages = {name: frame.index - self._held[name][1] for name in names}
        return StreamResult(self.name, frame, newest, tasks, ages, stages, done_ns)

    def _time_s(self, frame: CapturedFrame) -> float:
        """The time of a frame for the schedule, in seconds; a recording has its own time."""
        own = frame.captured_ns if self.is_live else frame.stamp_ns
        return (frame.received_ns if own is None else own) / 1e9


class Reader(threading.Thread):
    """The thread that opens, reads and closes the source of one lane.

    Args:
        lane: The lane.
        stop: Ends the thread.
        reconnect: Whether a live source that broke is opened again.
        take: Called with each frame.
        on_end: Called once, with what ended the thread; None is the end of the source.

    Attributes:
        opened: Done when the source has been opened for the first time, or could not be.
    """

    def __init__(
        self,
        lane: Lane,
        stop: threading.Event,
        *,
        reconnect: bool,
        take: Callable[[Lane, CapturedFrame], None],
        on_end: Callable[[Lane, BaseException | None], None],
    ) -> None:
        # A driver that never returns must not keep the process alive.
        super().__init__(name=f"degmix-{lane.name}", daemon=True)
        assert lane.source is not None
        self._lane, self._source, self._stopped = lane, lane.source, stop
        self._reconnects = reconnect and lane.source.is_live
        self._take, self._on_end = take, on_end
        self.opened: Future[None] = Future()

    def run(self) -> None:
        """Read until the source ends, breaks for good, or the stream stops."""
        error: BaseException | None = None
        try:
            self._open()
            self._read()
        except BaseException as problem:
            error = problem
        with contextlib.suppress(SourceError):
            self._source.close()
        self._on_end(self._lane, error)

    def _open(self) -> None:
        try:
            self._source.open()
        except BaseException as error:
            self.opened.set_exception(error)
            raise
        self.opened.set_result(None)

    def _read(self) -> None:
        while not self._stopped.is_set():
            try:
                frame = self._source.read(self._stopped)
            except SourceError as error:
                if not self._reconnects:
                    raise
                self._open_again(error)
                continue
            if frame is None:
                return
            self._take(self._lane, frame)

    def _open_again(self, error: SourceError) -> None:
        """Open the source that broke until it works again, or the stream stops."""
        wait, stats = FIRST_WAIT_S, self._lane.stats
        while True:
            stats.last_error = str(error)
            _log.warning("%s: %s; it is opened again in %g s", self._lane.name, error, wait)
            self._source.close()
            if self._stopped.wait(wait):
                return
            try:
                self._source.open()
            except SourceError as again:
                error, wait = again, min(2 * wait, LONGEST_WAIT_S)
                continue
            stats.reconnects += 1
            _log.warning("%s: it is open again", self._lane.name)
            return
