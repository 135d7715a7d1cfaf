"""Run a bundle on a camera or a recording, and send the maps to files and live views."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.capture import SourceOptions, open_source
from degmix_edge.capture._base import Replay
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.network import NetworkSpec
from degmix_edge.progress import Event, Progress, emit, listening, note, warn
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.runtime import load
from degmix_edge.runtime.results import StreamResult, StreamStats
from degmix_edge.runtime.stream import AnySource, Stream, stream
from degmix_edge.sinks import Sink, SinkOptions, View, open_sink

POLL_S = 0.2
"""Seconds after which a signal or the end of the duration is noticed, while no result comes."""
EVERY_S = 0.5
"""Seconds between two reports of progress."""
EVERY_FRAME = "every"
"""The rate of a task that runs on every frame, as a text."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Recording(Readable):
    """What became of a stream that was recorded or watched.

    Attributes:
        source: Where the frames came from.
        tasks: Tasks that ran.
        written: Files and folders that were written.
        results: Results that were written.
        seconds: From the first to the last result.
        rates_hz: By task, how often it ran a second, by the clock of this machine.
        ended_by: `source` where the frames ended, `duration`, or the name of a signal.
        stats: What happened to every frame.
    """

    source: str
    tasks: tuple[str, ...]
    written: list[Path]
    results: int
    seconds: float
    rates_hz: dict[str, float]
    ended_by: str
    stats: StreamStats

    @property
    def exit_code(self) -> int:
        """Return 0, or what shells expect of a program that ended after a signal."""
        named = [number for number in SIGNALS if number.name == self.ended_by]
        return 128 + named[0] if named else 0

    @property
    def values(self) -> dict[str, Any]:
        """What programs read."""
        return vars(self)

    def text(self) -> Iterator[str | TextTable]:
        """Yield what became of the frames of each camera, and what was written."""
        rows = []
        for name, camera in self.stats.cameras.items():
            drops = [f"{count} {cause}" for cause, count in camera.dropped.items() if count]
            more = {
                "lost before us": camera.lost,
                "reconnects": camera.reconnects,
                "stamps that jump back": camera.stamps_back,
                "last error": camera.last_error,
            }
            starved = self.stats.starved.get(name, {})
            rows += [
                [f"{name}: frames", str(camera.captured)],
                ["results", str(camera.delivered)],
                ["dropped", ", ".join(drops) or "0"],
                *([what, str(value)] for what, value in more.items() if value),
                *([f"{task} starved for", f"{age:.1f} s"] for task, age in starved.items()),
            ]
        ages = [f"{self.stats.age_ms[p]:.0f}" for p in ("p50", "p95", "p99") if self.stats.age_ms]
        rows.append(["age ms: p50, p95, p99", ", ".join(ages) or "unknown"])
        rows += [[f"{task}, runs a second", f"{rate:.1f}"] for task, rate in self.rates_hz.items()]
        title = f"{self.source}: {self.results} results in {self.seconds:.1f} s"
        yield TextTable(title, ["", "count"], rows)
        if self.written:
            yield f"maps: {', '.join(map(str, self.written))}"


def record_stream(
    bundle: str | Path | Bundle,
    source: AnySource | Mapping[str, AnySource],
    outputs: Sequence[str | os.PathLike[str] | Sink] = (),
    *,
    options: SinkOptions | None = None,
    rates: Mapping[str, float | None] | None = None,
    replay: Replay | None = None,
    topic: str | None = None,
    duration_s: float | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> Recording:
    """Run a bundle on a stream of frames until it ends, and write or show all results.

    In the main thread, SIGINT and SIGTERM end the stream as its source would, so that files are
    complete; a second signal interrupts. What was recorded before an error is kept as well. A live
    view that fails warns, and the recording goes on.

    >>> record_stream("robot.degmix", "drive.mcap", ["maps.mcap", "overlay.mp4"])

    Args:
        bundle: The bundle, or its folder.
        source: A camera, a URL or a recording, as `degmix_edge.stream` takes one.
        outputs: Paths and names that `open_sink` knows, or sinks, which are closed at the end.
        options: What is written, and whether files are replaced.
        rates: Runs a second by task, as `degmix_edge.stream` takes them. Without rates, the tasks
            of `options` run on every frame.
        replay: How a recording is read. None is as fast as possible where only files are written,
            so that they have every frame, and at the times of its stamps where a view is open.
        topic: Which topic of a recording holds the images.
        duration_s: Seconds after which the stream ends; None is never.
        progress: Called with an `Event` twice a second.
        loading: Further arguments of `load`.

    Raises:
        SourceError, BundleError, BackendError: The source or the bundle cannot be opened, or broke.
        ConfigError: An output is unknown or lacks a package, or an option is out of range.
        OutputError: A file exists or cannot be written, or the disk is full.
    """
    if duration_s is not None and not duration_s > 0:
        raise ConfigError(f"duration: got {duration_s!r}, expected seconds above 0")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    options = _with_tasks(options or SinkOptions(), rates)
    rates = rates or (dict.fromkeys(options.tasks) if options.tasks else None)
    with listening(progress), contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(_opened(one, opened.manifest.network, options)) for one in outputs
        ]
        is_watched = any(isinstance(one, View) for one in targets)
        frames = _source(source, replay, topic, is_watched=is_watched)
        session = stack.enter_context(load(opened, **loading))
        with _signals() as ended, stream(session, frames, rates=rates) as running:
            tally = _pump(running, targets, ended, duration_s)
            running.close()
            stack.close()  # here, where a signal does not interrupt it
    return _recording(_name(frames), targets, tally, ended, running.stats)


def parse_rates(texts: Sequence[str]) -> dict[str, float | None] | None:
    """Return rates by task from texts such as `depth=30`; `depth=every` is every frame.

    Raises:
        ConfigError: A text is something else.
    """
    rates: dict[str, float | None] = {}
    for text in texts:
        task, _, rate = text.partition("=")
        try:
            rates[task] = None if rate == EVERY_FRAME else float(rate)
        except ValueError:
            raise ConfigError(
                f"rate {text!r}: expected a task and its runs a second, as in depth=30, or "
                f"depth={EVERY_FRAME} for every frame"
            ) from None
    return rates or None


@dataclass
class _Ended:
    """What ended the stream."""

    by: str = ""


@dataclass
class _Tally:
    """What was written, and when."""

    results: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    first: float = 0.0
    last: float = 0.0

    def count(self, result: StreamResult) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.results += 1
        for task in result.fresh:
            self.runs[task] = self.runs.get(task, 0) + 1

    @property
    def seconds(self) -> float:
        return self.last - self.first

    @property
    def rates_hz(self) -> dict[str, float]:
        """Runs a second: the intervals between results have one run less than there are results."""
        share = (self.results - 1) / self.results / self.seconds if self.seconds else 0.0
        return {task: runs * share for task, runs in self.runs.items()}


def _with_tasks(options: SinkOptions, rates: Mapping[str, float | None] | None) -> SinkOptions:
    """The options for the tasks that run, where not all of them do."""
    if options.tasks or rates is None:
        return options
    running = tuple(task for task, rate in rates.items() if rate is None or rate)
    return dataclasses.replace(options, tasks=running)


def _opened(
    output: str | os.PathLike[str] | Sink, network: NetworkSpec, options: SinkOptions
) -> Sink:
    return output if isinstance(output, Sink) else open_sink(os.fspath(output), network, options)


def _name(source: AnySource | Mapping[str, AnySource]) -> str:
    """What a source is called: never its frames, which may be arrays."""
    if isinstance(source, Mapping):
        return ", ".join(source)
    return str(getattr(source, "name", type(source).__name__))


def _recording(
    source: str, targets: Sequence[Sink], tally: _Tally, ended: _Ended, stats: StreamStats
) -> Recording:
    return Recording(
        source=source,
        tasks=tuple(tally.runs),
        written=[one.path for one in targets if one.path is not None and one.count],
        results=tally.results,
        seconds=tally.seconds,
        rates_hz=tally.rates_hz,
        ended_by=ended.by,
        stats=stats,
    )


def _source(
    source: AnySource | Mapping[str, AnySource],
    replay: Replay | None,
    topic: str | None,
    *,
    is_watched: bool,
) -> AnySource | Mapping[str, AnySource]:
    if not isinstance(source, str | os.PathLike | int):
        if replay or topic:
            raise ConfigError("replay and topic are of recordings that are given by their path")
        return source
    text = str(source)
    if replay is None and not is_watched:
        with contextlib.suppress(ConfigError):  # a camera has no replay
            return open_source(text, SourceOptions(replay="fast", topic=topic))
    return open_source(text, SourceOptions(replay=replay or "timed", topic=topic))


def _pump(
    running: Stream, targets: Sequence[Sink], ended: _Ended, duration_s: float | None
) -> _Tally:
    """Write results until the stream ends, the time is over, or a signal comes."""
    for target in targets:
        if isinstance(target, View):
            note(target.hint)
    tally, start, told = _Tally(), time.monotonic(), 0.0
    while not ended.by:
        now = time.monotonic() - start
        if duration_s is not None and now >= duration_s:
            ended.by = "duration"
            break
        if now - told >= EVERY_S:
            told = now
            detail = f"{tally.results} results"
            emit(Event("stream", done=now, total=duration_s or 0, detail=detail))
        try:
            result = running.read(POLL_S)
        except TimeoutError:
            continue
        if result is None:
            ended.by = "source"
            break
        for target in targets:
            target.write(result)
        tally.count(result)
        _check_views(targets)
    emit(Event("stream", "finished", done=tally.results, seconds=time.monotonic() - start))
    if not tally.results:
        warn("no result was computed, so nothing was written", "stream")
    return tally


def _check_views(targets: Sequence[Sink]) -> None:
    """Raise where nothing but views was asked for, and all of them have ended."""
    failed = [one for one in targets if isinstance(one, View) and one.error]
    if targets and len(failed) == len(targets):
        raise OutputError(f"{failed[0].name}: the view has ended: {failed[0].error}")


@contextlib.contextmanager
def _signals() -> Iterator[_Ended]:
    """Note the first SIGINT or SIGTERM of the block; a second one interrupts it."""
    ended = _Ended()

    def ask(number: int, frame: FrameType | None) -> None:
        if ended.by in {one.name for one in SIGNALS}:
            raise KeyboardInterrupt
        ended.by = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
