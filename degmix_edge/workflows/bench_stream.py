"""A bundle at a camera's rate: what it achieves, what it misses, how old its results are."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.capture import Source, SourceOptions, open_source
from degmix_edge.errors import BackendError, ConfigError, InputError
from degmix_edge.progress import Progress, counting, listening
from degmix_edge.runtime import Session, load
from degmix_edge.runtime.results import CAUSES, NOT_DUE, CameraStats, StreamResult
from degmix_edge.runtime.stream import CAMERA, Stream, stream
from degmix_edge.workflows.bench import frames_of, machine
from degmix_edge.workflows.bench_figures import (
    PARTS,
    Arrivals,
    Figure,
    achieved_hz,
    age_ms,
    call_ms,
    figures,
    gaps,
    jitter_ms,
    latency_ms,
    percentiles,
)
from degmix_edge.workflows.board import Board, read_board
from degmix_edge.workflows.paced import PacedSource
from degmix_edge.workflows.telemetry import Sampler, Usage

RATE_HZ = 30.0
SECONDS = 30.0
WARM_S, WARM_RESULTS = 1.0, 5
"""Before the run counts, so long and so many results pass."""
PATIENCE_S = 60.0
"""A source or a network that gives nothing for so long has failed."""
MOST_HZ, MOST_S = 120.0, 3600.0
"""Results a second, and seconds, for which memory is taken at the start: 31 MB at most."""
IDLE_CALLS = 3
"""How often a pause is tried."""
LOST = "lost by the source"
"""Frames that the driver, the network or the source itself lost: the cause beside the stream's."""


@dataclass(frozen=True)
class AfterIdle:
    """The first call after a pause in which the network had nothing to do.

    Attributes:
        idle_s: Seconds of each pause.
        calls_ms: What the first call after each pause took, in milliseconds.
        usual_ms: The median of the calls before.
    """

    idle_s: float
    calls_ms: tuple[float, ...]
    usual_ms: float


@dataclass(frozen=True)
class StreamBench:
    """What a stream did at a camera's rate.

    `offered` is the sum of `delivered`, of `missed` by cause, and of `in_stream`.

    Attributes:
        bundle: Where the bundle is.
        backend: What computed.
        precision: Precision of the bundle.
        source: What the frames came from.
        rates: Runs a second that were asked for, by task; None is all tasks on every frame.
        seconds: How long the run took, without the warm-up.
        ended: Whether the source ended before the time was over.
        offered: Frames that the source gave or lost.
        offered_hz: The same, a second.
        delivered: Results that the consumer took.
        achieved_hz: The same, a second.
        in_stream: Frames that were on their way at the end, less those at the beginning; it may be
            negative.
        missed: Frames without a result, by cause.
        deadline_ms: How old a result may be.
        late: Results that were older; of a source that does not know the moment of capture, results
            that took longer since the receipt of the frame.
        age_ms: `p50`, `p95`, `p99` and `max` from the capture until the consumer took the result;
            None where the source does not know the moment of capture.
        latency_ms: The same from the receipt of the frame, and the `mean`, `min`, `first` and
            `last`.
        call_ms: The same for computing a result.
        stages_ms: The same by stage.
        jitter_ms: `mean`, `max`, `min` and `std` of the change between intervals.
        gaps: Intervals between results that were longer than two periods.
        longest_gap_ms: The longest interval.
        task_hz: Runs a second by task.
        after_idle: The first calls after a pause; None where none was asked for.
        usage: Processor, memory, watts, degrees and clocks.
        board: The machine's board.
        machine: Processor, system, and the date.
        figures: What two runs are compared by.
    """

    bundle: str
    backend: str
    precision: str
    source: str
    rates: Mapping[str, float | None] | None
    seconds: float
    ended: bool
    offered: int
    offered_hz: float
    delivered: int
    achieved_hz: float | None
    in_stream: int
    missed: Mapping[str, int]
    deadline_ms: float
    late: int
    age_ms: Mapping[str, float] | None
    latency_ms: Mapping[str, float]
    call_ms: Mapping[str, float]
    stages_ms: Mapping[str, Mapping[str, float]]
    jitter_ms: Mapping[str, float]
    gaps: int
    longest_gap_ms: float | None
    task_hz: Mapping[str, float]
    after_idle: AfterIdle | None
    usage: Usage
    board: Board
    machine: Mapping[str, str]
    figures: Mapping[str, Figure]

    @property
    def num_missed(self) -> int:
        """Frames that should have had a result; those on which no task was due do not count."""
        return sum(count for cause, count in self.missed.items() if cause != NOT_DUE)

    @property
    def deadline_misses(self) -> int:
        """Frames whose result came too late, or never."""
        return self.late + self.num_missed

    @property
    def period_ms(self) -> float:
        """Milliseconds between two frames of the source."""
        return 1000 / self.offered_hz if self.offered_hz else math.inf

    @property
    def is_too_slow(self) -> bool:
        """Whether a call takes longer than the time between two frames."""
        return self.call_ms["p50"] > self.period_ms

    @property
    def verdict(self) -> str:
        """In one sentence, whether the machine keeps up."""
        achieved = self.achieved_hz or 0.0
        if self.is_too_slow:
            return (
                f"too slow for {self.offered_hz:.1f} frames a second: a call takes "
                f"{self.call_ms['p50']:.1f} ms, and a frame comes every {self.period_ms:.1f} ms; "
                f"{achieved:.1f} frames a second have a result, and the others are dropped"
            )
        due = self.offered - self.missed[NOT_DUE]
        return (
            f"{achieved:.1f} results a second of {self.offered_hz:.1f} frames; {self.num_missed} "
            f"of {due} frames missed and {self.late} late, by a deadline of "
            f"{self.deadline_ms:.1f} ms"
        )


def bench_stream(
    bundle: str | Path | Bundle,
    source: str | Source | None = None,
    *,
    rate: float | None = None,
    seconds: float = SECONDS,
    rates: Mapping[str, float | None] | None = None,
    deadline_ms: float | None = None,
    idle_s: float | None = None,
    images: str | Iterable[Any] = "photos",
    options: SourceOptions | None = None,
    progress: Progress | None = None,
    **loading: Any,
) -> StreamBench:
    """Run a stream at a camera's rate for some seconds, with a consumer that does nothing else.

    Args:
        bundle: The bundle, or its folder.
        source: Where the frames come from, as for `degmix_edge.stream`. None offers `images` at
            `rate`, as a camera does.
        rate: Frames a second that are asked of the source; None is what the source gives, and 30
            without a source.
        seconds: How long to measure; a recording that ends earlier ends the run.
        rates: Runs a second by task, as for `degmix_edge.stream`.
        deadline_ms: How old a result may be; None is one period.
        idle_s: Seconds of a pause after which the first call is timed; None leaves that out.
        images: What is offered without a source, as for `degmix_edge.bench`.
        options: What is asked of a source that is given as a text.
        progress: Called with an `Event` as the seconds go by.
        **loading: Further arguments of `load`, such as `threads` and `backend`, and `size`.

    Raises:
        ConfigError: A number is out of range, or an option does not fit the source.
        SourceError: The source cannot be opened, or broke.
        InputError: There are no images.
        BundleError, BackendError: The bundle cannot be opened or run, or gave no results.
    """
    _check(seconds=seconds, deadline_ms=deadline_ms, idle_s=idle_s, rate=rate)
    rate = RATE_HZ if rate is None and source is None else rate
    size = loading.pop("size", None)
    opened = (bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))).at(size)
    with ExitStack() as stack:
        stack.enter_context(listening(progress))
        session = stack.enter_context(load(opened, **loading))
        frames = _source(opened, source, rate, images, options)
        advance = stack.enter_context(counting("bench", seconds))
        with stream(session, frames, rates=rates) as running:
            run = _Run(running, frames)
            run.measure(seconds, advance)
            idle = None if idle_s is None else run.after_idle(idle_s)
        return run.result(
            opened,
            session,
            source=frames.name,
            rates=rates,
            rate=rate,
            deadline_ms=deadline_ms,
            after_idle=idle,
        )


class _Run:
    """The measurement of one running stream."""

    def __init__(self, running: Stream, source: Source) -> None:
        self.stream, self.source = running, source
        self.arrivals = Arrivals(0)
        self.seconds, self.ended = 0.0, False

    def measure(self, seconds: float, advance: Callable[[float], None]) -> None:
        """Warm up, and take results for some seconds."""
        self._warm_up()
        self.arrivals = Arrivals(int(min(seconds, MOST_S) * MOST_HZ))
        before, start = self._stats(), time.monotonic()
        with Sampler(interval_s=min(1.0, seconds / 10)) as sampler:
            told = start
            while (now := time.monotonic()) < start + seconds:
                advance(now - told)
                told = now
                self.ended, result = self._read(start + seconds - now)
                if self.ended:
                    break
                if result is not None:
                    self.arrivals.add(result)
                del result  # else its maps would lie here while the next ones are made
            after, self.seconds = self._stats(), time.monotonic() - start
        self.usage = sampler.usage()
        self.counts = _difference(before, after)
        if len(self.arrivals) < 2:
            raise BackendError(
                f"bench: {len(self.arrivals)} results in {self.seconds:.1f} s, expected at least "
                "2; give more --seconds, or a source that lasts longer"
            )

    def after_idle(self, idle_s: float) -> AfterIdle:
        """Let the network rest while the source goes on, and time the first call after that."""
        usual = percentiles(call_ms(self.arrivals.rows))["p50"]
        calls: list[float] = []
        rates = self.stream.rates
        for _ in range(IDLE_CALLS):
            for task in rates:
                self.stream.set_rate(task, 0)
            time.sleep(idle_s)
            woken = time.monotonic_ns()
            for task, rate in rates.items():
                self.stream.set_rate(task, rate)
            while True:
                result = self.stream.read(PATIENCE_S)
                if result is None:
                    return AfterIdle(idle_s, tuple(calls), usual)
                # A result of before the pause may lie there still.
                if result.computed_ns > woken:
                    first = Arrivals(1)
                    first.add(result)
                    calls.append(float(call_ms(first.rows)[0]))
                    break
        return AfterIdle(idle_s, tuple(calls), usual)

    def result(
        self,
        opened: Bundle,
        session: Session,
        *,
        source: str,
        rates: Mapping[str, float | None] | None,
        rate: float | None,
        deadline_ms: float | None,
        after_idle: AfterIdle | None,
    ) -> StreamBench:
        """Put the figures together."""
        rows, counts = self.arrivals.rows, self.counts
        arrived, ages, latencies = rows["arrived_ns"], age_ms(rows), latency_ms(rows)
        offered = counts.captured + counts.lost
        period_ms = 1000 * self.seconds / max(1, offered)
        deadline = (1000 / rate if rate else period_ms) if deadline_ms is None else deadline_ms
        times = ages if len(ages) else latencies
        num_gaps, longest = gaps(arrived, period_ms)
        return StreamBench(
            bundle=str(opened.path),
            backend=session.backend.name,
            precision=opened.manifest.precision,
            source=source,
            rates=rates,
            seconds=self.seconds,
            ended=self.ended,
            offered=offered,
            offered_hz=offered / self.seconds,
            delivered=counts.delivered,
            achieved_hz=achieved_hz(arrived),
            in_stream=counts.in_stream,
            missed={LOST: counts.lost, **counts.dropped},
            deadline_ms=deadline,
            late=int((times > deadline).sum()),
            age_ms=percentiles(ages) or None,
            latency_ms=_latencies(latencies),
            call_ms=percentiles(call_ms(rows)),
            stages_ms={part: percentiles(rows[part]) for part in PARTS},
            jitter_ms=jitter_ms(arrived),
            gaps=num_gaps,
            longest_gap_ms=longest,
            task_hz={task: runs / self.seconds for task, runs in counts.runs.items()},
            after_idle=after_idle,
            usage=self.usage,
            board=read_board(),
            machine=machine(),
            figures=figures(rows),
        )

    def _warm_up(self) -> None:
        start, count = time.monotonic(), 0
        while count < WARM_RESULTS or time.monotonic() < start + WARM_S:
            is_over, result = self._read(WARM_S)
            count += result is not None
            if is_over:
                raise InputError("bench: the source ended during the warm-up; give a longer one")
            if not count and time.monotonic() > start + PATIENCE_S:
                raise BackendError(f"bench: no result within {PATIENCE_S:g} s")

    def _read(self, timeout_s: float) -> tuple[bool, StreamResult | None]:
        """Whether the source is over, and the next result, where one comes in time."""
        try:
            result = self.stream.read(timeout_s)
        except TimeoutError:
            return False, None
        return result is None, result

    def _stats(self) -> CameraStats:
        found = self.stream.stats.cameras[CAMERA]
        # A source that replays or renders skips frames itself where they come too late.
        return dataclasses.replace(found, lost=found.lost + found.skipped)


def _latencies(values: np.ndarray) -> dict[str, float]:
    more = {"mean": values.mean(), "min": values.min(), "first": values[0], "last": values[-1]}
    return percentiles(values) | {name: float(value) for name, value in more.items()}


def _difference(before: CameraStats, after: CameraStats) -> CameraStats:
    """What was counted in between."""
    return dataclasses.replace(
        after,
        captured=after.captured - before.captured,
        delivered=after.delivered - before.delivered,
        dropped={cause: after.dropped[cause] - before.dropped[cause] for cause in CAUSES},
        in_stream=after.in_stream - before.in_stream,
        lost=after.lost - before.lost,
        runs={task: after.runs[task] - before.runs[task] for task in after.runs},
    )


def _check(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"bench: {name} {value}, expected a number above 0")


def _source(
    opened: Bundle,
    source: str | Source | None,
    rate: float | None,
    images: str | Iterable[Any],
    options: SourceOptions | None,
) -> Source:
    if isinstance(source, Source):
        return source
    if source is not None:
        asked = options or SourceOptions()
        return open_source(source, dataclasses.replace(asked, rate_hz=rate or asked.rate_hz))
    return PacedSource(frames_of(images, opened), RATE_HZ if rate is None else rate)
