"""A stream: cameras in, the newest maps out, each task at its own rate."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from degmix_edge.bundle.contents import Bundle
from degmix_edge.camera import FrameFormat
from degmix_edge.capture import (
    CapturedFrame,
    IterableSource,
    Source,
    SourceOptions,
    open_source,
)
from degmix_edge.errors import BackendError, ConfigError, DegmixWarning, InputError
from degmix_edge.registry import unknown
from degmix_edge.runtime.costs import CostModel
from degmix_edge.runtime.lane import Lane, Reader
from degmix_edge.runtime.maps import Maps
from degmix_edge.runtime.results import (
    NOT_DUE,
    REFUSED,
    STOPPED,
    TOO_OLD,
    StreamResult,
    StreamStats,
    age_ms,
)
from degmix_edge.runtime.schedule import Schedule
from degmix_edge.runtime.session import Session, load

AnySource: TypeAlias = "str | os.PathLike[str] | int | Source | Iterable[Any] | None"
"""What `stream` takes as a source: a text for `open_source`, a camera's number, a source, an
iterable of frames, or None where the frames come from `Stream.put`."""
CAMERA = "camera"
"""What the only camera of a stream is called."""
STOP_S = 2.0
"""Seconds after which a stream has stopped, whatever its threads were doing."""
CANCEL_S = 0.5
"""Seconds that a call of the network may take to finish before it is ended."""
MOST_REFUSED = 30
"""Frames in a row that the network refuses before the stream ends with an error."""
AGES = 1024
Job: TypeAlias = tuple[Lane, CapturedFrame, tuple[str, ...]]
"""A frame, the camera that it is of, and the tasks that run on it."""
_log = logging.getLogger("degmix_edge.stream")


class Stream:
    """Runs the newest frame of each camera and hands out the newest result of each.

    A thread for each source keeps the newest frame, and one thread computes. A live source never
    waits: a frame that is replaced before it was computed is dropped and counted, and so is a
    result that is replaced before it was taken. A source that is not live waits, so that every
    frame of a file is computed. Close the stream with `with` or `close()`.

    Args:
        session: What computes the maps.
        sources: By camera; None is a camera whose frames come from `put`.
        rates: Runs a second by task; None is every frame. Tasks that are not named never run,
            until `set_rate` gives them a rate. Without rates all tasks run on every frame.
        priorities: By task, for equal deadlines; a higher number goes first.
        budget_ms: Milliseconds that one frame may cost; None is no limit.
        max_age_ms: Milliseconds after which a frame is worth nothing: it is not computed. Frames
            whose age is unknown always are. It may be changed at any time.
        reconnect: Whether a live source that broke is opened again, with growing waits.
        owns_session: Whether closing the stream closes the session.

    Raises:
        SourceError: A source cannot be opened.
        ConfigError: A rate, a task or the budget is out of range.
    """

    def __init__(
        self,
        session: Session,
        sources: Mapping[str, Source | None],
        *,
        rates: Mapping[str, float | None] | None = None,
        priorities: Mapping[str, int] | None = None,
        budget_ms: float | None = None,
        max_age_ms: float | None = None,
        reconnect: bool = True,
        owns_session: bool = False,
    ) -> None:
        if not sources:
            raise ConfigError("stream: no sources, expected at least one")
        if max_age_ms is not None and not 0 < max_age_ms < float("inf"):
            raise ConfigError(f"max_age_ms: got {max_age_ms}, expected milliseconds above 0")
        self.session, self.max_age_ms, self._owns = session, max_age_ms, owns_session
        every = _all_rates(rates, session.spec.task_names)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._is_done = self._is_closed = False
        self._count, self._over_budget = 0, 0
        self._starving: set[tuple[str, str]] = set()
        self._ages: deque[float] = deque(maxlen=AGES)
        self._costs = CostModel(session.shares)
        self._lanes = {
            name: Lane(
                name, source, session, Schedule(every, priorities=priorities, budget_ms=budget_ms)
            )
            for name, source in sources.items()
        }
        self._readers = [
            Reader(lane, self._stop, reconnect=reconnect, take=self._take, on_end=self._end_lane)
            for lane in self._lanes.values()
            if lane.source
        ]
        self._worker = threading.Thread(target=self._work, name="degmix-stream", daemon=True)
        for thread in (*self._readers, self._worker):
            thread.start()
        self._wait_for_sources()

    # What a user changes while the stream runs.

    @property
    def rates(self) -> dict[str, float | None]:
        """Runs a second by task of the first camera; None is every frame, and 0 is never."""
        return next(iter(self._lanes.values())).schedule.rates

    def set_rate(self, task: str, rate: float | None, camera: str | None = None) -> None:
        """Change how often a task runs, from the next frame on.

        Args:
            task: The task.
            rate: Runs a second; None is every frame, and 0 is never.
            camera: Which camera; None is all of them.

        Raises:
            ConfigError: There is no such task or camera, or the rate is out of range.
        """
        with self._changed:
            for lane in self._of(camera):
                lane.schedule.set_rate(task, rate)

    def set_priority(self, task: str, priority: int) -> None:
        """Change which of two tasks with equal deadlines runs first.

        Raises:
            ConfigError: There is no such task.
        """
        with self._changed:
            for lane in self._lanes.values():
                lane.schedule.set_priority(task, priority)

    @property
    def budget_ms(self) -> float | None:
        """Milliseconds that one frame may cost; None is no limit. It may be changed at any time."""
        return next(iter(self._lanes.values())).schedule.budget_ms

    @budget_ms.setter
    def budget_ms(self, value: float | None) -> None:
        with self._changed:
            for lane in self._lanes.values():
                lane.schedule.budget_ms = value

    def put(
        self,
        image: Any,
        stamp_ns: int | None = None,
        *,
        camera: str | None = None,
        captured_ns: int | None = None,
        format: FrameFormat | None = None,
        frame_id: str = "",
        intrinsics: np.ndarray | None = None,
    ) -> None:
        """Give the stream a frame, from any thread; it returns at once.

        Args:
            image: An image as a session takes it. It is not copied, so nobody may write into it
                until its result has come.
            stamp_ns: Its acquisition time, which the result copies; None is unknown.
            camera: Which camera; None is the only one that takes frames this way.
            captured_ns: When it was captured, on `time.monotonic_ns`; None is unknown.
            format: What the bytes of an array are; None is the session's format.
            frame_id: The camera's coordinate frame.
            intrinsics: The camera matrix `(3, 3)`.

        Raises:
            ConfigError: No camera of this name takes frames this way.
            BackendError: The stream is closed, or ended with an error.
        """
        lane = self._put_lane(camera)
        source = "caller" if stamp_ns is not None else "unknown"
        frame = CapturedFrame(
            image,
            time.monotonic_ns(),
            captured_ns,
            stamp_ns,
            source,
            frame_id=frame_id,
            format=format or self.session.format,
            intrinsics=intrinsics,
        )
        with self._changed:
            if self._is_done or self._stop.is_set() or lane.has_ended:
                raise BackendError("stream: it is closed, so it takes no frames") from self._error
            lane.put_frame(frame)
            self._changed.notify_all()

    def end(self) -> None:
        """Say that `put` will give no more frames; the stream ends after the last result."""
        with self._changed:
            for lane in self._lanes.values():
                lane.has_ended = lane.has_ended or lane.source is None
            self._changed.notify_all()

    # What a user reads.

    def read(self, timeout_s: float | None = None) -> StreamResult | None:
        """Wait for the next result and return it; None is the end of all sources.

        Of several cameras, the one whose result has waited longest comes first.

        Raises:
            TimeoutError: No result came within `timeout_s` seconds.
            SourceError: A source broke and is not opened again.
            BackendError: The backend failed, or the stream is closed.
        """
        with self._changed:
            is_ready = self._changed.wait_for(self._has_news, timeout_s)
            if not is_ready:
                raise TimeoutError(f"stream: no result within {timeout_s:g} s")
            waiting = [lane for lane in self._lanes.values() if lane.result is not None]
            if not waiting:
                self._check_open()
                return None
            lane = min(waiting, key=lambda one: one.waits_since)
            result = lane.take_result()
            age = age_ms(result.frame)
            if age is not None:
                self._ages.append(age)
                lane.stats.late += self.max_age_ms is not None and age > self.max_age_ms
            self._changed.notify_all()
        waited = (time.monotonic_ns() - result.computed_ns) / 1e6
        stages = {**result.stages, "take_ms": waited}
        return dataclasses.replace(result, age_ms=age, stages=stages)

    def __iter__(self) -> Iterator[StreamResult]:
        """Give results until all sources have ended."""
        while (result := self.read()) is not None:
            yield result

    @property
    def stats(self) -> StreamStats:
        """What happened so far: a snapshot."""
        with self._changed:
            cameras = {name: deepcopy(lane.stats) for name, lane in self._lanes.items()}
            starved = {n: lane.schedule.starved(lane.now_s) for n, lane in self._lanes.items()}
            ages = np.array(self._ages)
        found = np.percentile(ages, (50, 95, 99, 100)) if len(ages) else ()
        names = ("p50", "p95", "p99", "max")
        return StreamStats(
            cameras,
            {name: float(value) for name, value in zip(names, found, strict=False)},
            self._over_budget,
            {name: tasks for name, tasks in starved.items() if tasks},
        )

    def close(self) -> None:
        """Stop all threads within two seconds and let go of the sources.

        Frames that are still in the stream are counted as dropped. A second call does nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._stop.set()
        deadline = time.monotonic() + STOP_S
        with self._changed:
            self._changed.notify_all()
        self._worker.join(CANCEL_S)
        if self._worker.is_alive():
            self.session.backend.cancel()
        for thread in (self._worker, *self._readers):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _warn(f"stream: thread {thread.name} did not stop within {STOP_S:g} s; it is left")
        with self._changed:
            for lane in self._lanes.values():
                for _ in range(lane.stats.in_stream):
                    lane.stats.drop(STOPPED)
                lane.frame = lane.result = None
        if self._owns and not self._worker.is_alive():
            self.session.close()

    def __enter__(self) -> Stream:
        """Return the stream itself, which runs since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stream."""
        self.close()

    # What the readers' threads call.

    def _take(self, lane: Lane, frame: CapturedFrame) -> None:
        with self._changed:
            if not lane.is_live:
                self._changed.wait_for(lambda: lane.frame is None or self._stop.is_set())
            if not self._stop.is_set():
                lane.put_frame(frame)
                self._changed.notify_all()

    def _end_lane(self, lane: Lane, error: BaseException | None) -> None:
        if error is not None and not self._is_closed:
            self._fail(error)
        with self._changed:
            lane.has_ended = True
            self._changed.notify_all()

    # The worker: the only thread that computes.

    def _work(self) -> None:
        try:
            while jobs := self._next_jobs():
                self._compute(jobs)
        except BaseException as error:
            if not self._stop.is_set():
                self._fail(error)
        with self._changed:
            self._is_done = True
            self._changed.notify_all()

    def _next_jobs(self) -> list[Job]:
        """The next frames, as many cameras' as the network computes at once; none is the end.

        Cameras take turns.
        """
        lanes = self._lanes.values()
        with self._changed:
            while True:
                self._changed.wait_for(
                    lambda: self._stop.is_set() or any(one.is_ready for one in lanes) or self._ended
                )
                ready = [lane for lane in lanes if lane.is_ready]
                if self._stop.is_set() or not ready:
                    return []
                jobs: list[Job] = []
                for lane in sorted(ready, key=lambda one: one.last_call):
                    jobs += self._job(lane, jobs)
                self._changed.notify_all()
                if jobs:
                    return jobs

    def _job(self, lane: Lane, others: list[Job]) -> list[Job]:
        """The frame of a lane and its tasks, where it can be computed together with others."""
        is_full = len(others) == self.session.spec.batch
        if is_full or (others and lane.format != others[0][1].format):
            return []
        frame = lane.take_frame()
        age = age_ms(frame)
        if age is not None and self.max_age_ms is not None and age > self.max_age_ms:
            lane.stats.drop(TOO_OLD)
            return []
        tasks = lane.schedule.choose(lane.now_s, self._costs)
        self._warn_of_starvation(lane)
        if not tasks:
            lane.stats.drop(NOT_DUE)
            return []
        return [(lane, frame, tasks)]

    def _compute(self, jobs: list[Job]) -> None:
        start = time.monotonic_ns()
        try:
            found = self._maps_of(jobs)
        except InputError as error:
            if len(jobs) == 1:
                self._refuse(jobs[0][0], error)
            else:  # one of them is at fault
                for job in jobs:
                    self._compute([job])
            return
        done = time.monotonic_ns()
        cost_ms = (done - start) / 1e6
        self._costs.learn({task for _, _, tasks in jobs for task in tasks}, cost_ms)
        results = [
            lane.result_of(frame, tasks, maps, start_ns=start, done_ns=done)
            for (lane, frame, tasks), maps in zip(jobs, found, strict=True)
        ]
        with self._changed:
            self._count += 1
            for (lane, _, _), result in zip(jobs, results, strict=True):
                budget = lane.schedule.budget_ms
                self._over_budget += budget is not None and cost_ms > budget
                lane.refused_in_row = 0
                lane.put_result(result, self._count)
            self._changed.notify_all()

    def _maps_of(self, jobs: list[Job]) -> list[Maps]:
        lane, frame, tasks = jobs[0]
        if len(jobs) == 1:
            return [lane.sequence(frame.image, tasks=tasks, format=frame.format)]
        return self.session([frame.image for _, frame, _ in jobs], format=frame.format)

    def _refuse(self, lane: Lane, error: InputError) -> None:
        with self._changed:
            lane.stats.drop(REFUSED)
            lane.stats.last_error = str(error)
        lane.refused_in_row += 1
        _log.warning("%s: a frame is refused: %s", lane.name, error)
        if lane.refused_in_row >= MOST_REFUSED:
            raise InputError(f"{lane.name}: {MOST_REFUSED} frames in a row were refused: {error}")

    def _warn_of_starvation(self, lane: Lane) -> None:
        """Say once for each task that the budget does not reach it."""
        if lane.schedule.budget_ms is None:
            return
        for task, seconds in lane.schedule.starved(lane.now_s).items():
            if (lane.name, task) not in self._starving:
                self._starving.add((lane.name, task))
                _warn(
                    f"stream: {task} of {lane.name} has not run for {seconds:.1f} s, because "
                    f"budget_ms={lane.schedule.budget_ms:g} leaves no room for it: raise the "
                    "budget, or lower the rate of another task"
                )

    # Ends.

    @property
    def _ended(self) -> bool:
        return all(lane.has_ended and lane.frame is None for lane in self._lanes.values())

    def _has_news(self) -> bool:
        return (
            self._is_done
            or self._stop.is_set()
            or self._error is not None
            or any(lane.result is not None for lane in self._lanes.values())
        )

    def _check_open(self) -> None:
        """Raise what ended the stream, where that was not the end of its sources."""
        if self._error is not None:
            raise self._error
        if self._is_closed:
            raise BackendError("stream: it is closed, so it gives no results")

    def _fail(self, error: BaseException) -> None:
        """End the stream; the error reaches the user with the next `read`."""
        with self._changed:
            self._error = self._error or error
            self._stop.set()
            self._changed.notify_all()

    def _wait_for_sources(self) -> None:
        try:
            for reader in self._readers:
                reader.opened.result()
        except BaseException:
            self.close()
            raise

    def _of(self, camera: str | None) -> list[Lane]:
        if camera is None:
            return list(self._lanes.values())
        if camera not in self._lanes:
            raise ConfigError(unknown("camera", camera, self._lanes))
        return [self._lanes[camera]]

    def _put_lane(self, camera: str | None) -> Lane:
        lanes = [lane for lane in self._of(camera) if lane.source is None]
        if len(lanes) != 1:
            have = ", ".join(name for name, lane in self._lanes.items() if lane.source is None)
            raise ConfigError(
                f"put: camera {camera!r} does not say which of these takes the frame: "
                f"{have or 'none, because every camera has a source'}"
            )
        return lanes[0]


def stream(
    bundle: str | os.PathLike[str] | Bundle | Session,
    source: AnySource | Mapping[str, AnySource] = None,
    *,
    rates: Mapping[str, float | None] | None = None,
    priorities: Mapping[str, int] | None = None,
    budget_ms: float | None = None,
    max_age_ms: float | None = None,
    reconnect: bool = True,
    options: SourceOptions | None = None,
    **loading: Any,
) -> Stream:
    """Open a bundle and its cameras, and compute the newest maps until the stream is closed.

    >>> rates = {"depth": 30, "semseg": 10}
    >>> with degmix_edge.stream("robot.degmix", "/dev/video0", rates=rates) as stream:
    ...     for result in stream:
    ...         steer(result.maps["depth"], result.age_ms)

    Args:
        bundle: The bundle, or a session, which stays open when the stream is closed.
        source: A camera such as `/dev/video0`, a URL, a recording, or anything else that
            `open_source` knows; an iterable of images; None, where frames come from `Stream.put`;
            or a mapping from the names of several cameras to these.
        rates: Runs a second by task; None is every frame. Tasks that are not named never run.
            Without rates all tasks run on every frame. Only a bundle that was built with `split`
            saves time by this.
        priorities: By task, for equal deadlines; a higher number goes first.
        budget_ms: Milliseconds that one frame may cost; None is no limit.
        max_age_ms: Milliseconds after which a frame is worth nothing, so that it is not computed.
        reconnect: Whether a live source that broke is opened again, with growing waits.
        options: What is asked of sources that are given as a text or a number.
        loading: Further arguments of `load`.

    Raises:
        SourceError: A source cannot be opened.
        ConfigError: A rate, a task, the budget or an option is out of range.
        BundleError, BackendError: The bundle cannot be opened or run.
    """
    named = source if isinstance(source, Mapping) else {CAMERA: source}
    sources = {name: _source(one, options) for name, one in named.items()}
    is_open = isinstance(bundle, Session)
    if is_open and loading:
        raise ConfigError(f"stream: {', '.join(loading)} cannot change a session that is open")
    session = bundle if isinstance(bundle, Session) else load(bundle, **loading)
    try:
        return Stream(
            session,
            sources,
            rates=rates,
            priorities=priorities,
            budget_ms=budget_ms,
            max_age_ms=max_age_ms,
            reconnect=reconnect,
            owns_session=not is_open,
        )
    except BaseException:
        if not is_open:
            session.close()
        raise


def _source(source: AnySource, options: SourceOptions | None) -> Source | None:
    if source is None or isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike | int):
        return open_source(str(source), options)
    return IterableSource(source)


def _all_rates(
    rates: Mapping[str, float | None] | None, tasks: tuple[str, ...]
) -> dict[str, float | None]:
    """A rate for every task."""
    if rates is None:
        return dict.fromkeys(tasks)
    for name in rates:
        if name not in tasks:
            raise ConfigError(unknown("task", name, tasks))
    if not any(rate is None or rate for rate in rates.values()):
        raise ConfigError("rates: no task has a rate above 0, so that nothing would run")
    return {task: rates.get(task, 0.0) for task in tasks}


def _warn(text: str) -> None:
    warnings.warn(text, DegmixWarning, stacklevel=3)
