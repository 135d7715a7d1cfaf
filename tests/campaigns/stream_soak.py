"""A stream for ten minutes with a consumer that stalls, and all the ways in which one ends.

    python tests/campaigns/stream_soak.py robot.degmix --seconds 600 --json soak.json

It runs a moving synthetic scene and a recording of 30 frames a second in MCAP, prints one table and
exits with 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import degmix_edge
from degmix_edge.capture import Source, SourceOptions, open_source
from degmix_edge.runtime import Session
from degmix_edge.workflows.bench_figures import Arrivals, age_ms, call_ms, percentiles
from degmix_edge.workflows.paced import PacedSource
from degmix_edge.workflows.telemetry import Sampler

RATE_HZ = 30.0
SIZE = (480, 640)
STALL_S = 0.4
"""The consumer sleeps for up to this after each result."""
STOP_S = 2.0
SLOPE_MB_PER_HOUR = 1.0
RECORDED_S = 10
"""Seconds of the recording, which is replayed again and again."""
ENDINGS = ("SIGTERM", "SIGINT", "a consumer that raises")


class ConsumerError(Exception):
    """What the consumer of a stream raises, where that is the case that is tried."""


@dataclass(frozen=True)
class Soak:
    """What a stream did.

    Attributes:
        source: What the frames came from.
        seconds: How long it ran.
        captured: Frames that the stream got.
        lost: Frames that the source lost or left out.
        delivered: Results that the consumer took.
        dropped: The other frames by cause.
        wrong_sums: Moments at which the counts did not add up, and results out of order.
        age_p50_ms, age_p95_ms: Of results when the consumer took them.
        call_p95_ms: Of one inference.
        slope_mb_per_hour: Growth of the resident memory over the last 80 percent.
        slope_error: The standard error of that.
        left: Threads, files and children that are there after the stream, and were not before.
    """

    source: str
    seconds: float
    captured: int
    lost: int
    delivered: int
    dropped: dict[str, int]
    wrong_sums: int
    age_p50_ms: float
    age_p95_ms: float
    call_p95_ms: float
    slope_mb_per_hour: float | None
    slope_error: float | None
    left: dict[str, list[str]]

    @property
    def age_limit_ms(self) -> float:
        """One period and one inference."""
        return 1000 / RATE_HZ + self.call_p95_ms

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words."""
        found = []
        if self.age_p95_ms > self.age_limit_ms:
            found.append(f"age p95 {self.age_p95_ms:.1f} ms exceeds {self.age_limit_ms:.1f} ms")
        if self.slope_mb_per_hour is None or self.slope_mb_per_hour >= SLOPE_MB_PER_HOUR:
            found.append(f"memory grows by {self.slope_mb_per_hour} MB/h")
        if self.wrong_sums:
            found.append(f"{self.wrong_sums} times the counts do not add up")
        if any(self.left.values()):
            found.append(f"left behind: {self.left}")
        return found


@dataclass(frozen=True)
class Ending:
    """How a stream ended.

    Attributes:
        how: One of `ENDINGS`.
        seconds: From the signal, or the error, until the stream had stopped.
        code: The exit code of its process.
        left: Threads, files and children that were left when it had stopped.
    """

    how: str
    seconds: float
    code: int
    left: dict[str, list[str]]

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in words."""
        expected = {"SIGTERM": 128 + signal.SIGTERM, "SIGINT": 130}.get(self.how, 1)
        found = [] if self.seconds < STOP_S else [f"stopped after {self.seconds:.2f} s"]
        if self.code != expected:
            found.append(f"exit code {self.code}, expected {expected}")
        return found + ([f"left behind: {self.left}"] if any(self.left.values()) else [])


def soak(session: Session, source: Source, seconds: float, stall_s: float = STALL_S) -> Soak:
    """Run a stream with a consumer that stalls at random, and check its counts all the time."""
    before, rng = _state(), random.Random(0)
    arrivals = Arrivals(int(RATE_HZ * seconds))
    wrong, last = 0, -1
    gc.collect()
    end = time.monotonic() + seconds
    with Sampler() as sampler, degmix_edge.stream(session, source) as running:
        while time.monotonic() < end and (result := running.read(STOP_S * 5)) is not None:
            arrivals.add(result)
            wrong += result.frame.index <= last
            last = result.frame.index
            wrong += not _adds_up(running)
            del result  # else this frame's maps would count as growth
            time.sleep(rng.uniform(0, stall_s))
    counts = running.stats.cameras["camera"]
    wrong += counts.in_stream + (not _adds_up(running))
    used = sampler.usage()
    ages = percentiles(age_ms(arrivals.rows))
    return Soak(
        source=source.name,
        seconds=used.seconds,
        captured=counts.captured,
        lost=counts.lost + counts.skipped,
        delivered=counts.delivered,
        dropped=dict(counts.dropped),
        wrong_sums=wrong,
        age_p50_ms=ages["p50"],
        age_p95_ms=ages["p95"],
        call_p95_ms=percentiles(call_ms(arrivals.rows))["p95"],
        slope_mb_per_hour=used.rss_slope_mb_per_hour,
        slope_error=used.rss_slope_error,
        left=_left(before),
    )


def _adds_up(running: degmix_edge.runtime.stream.Stream) -> bool:
    counts = running.stats.cameras["camera"]
    ways = counts.delivered + sum(counts.dropped.values()) + counts.in_stream
    return counts.captured == ways and 0 <= counts.in_stream <= 3


def _state() -> dict[str, list[str]]:
    """What this process has: threads, open files and children."""
    here = Path("/proc/self")
    files = []
    for link in (here / "fd").iterdir():
        try:
            files.append(os.readlink(link))
        except FileNotFoundError:  # that of the listing itself
            continue
    children = [text for t in (here / "task").iterdir() for text in _children(t)]
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "files": files,
        "children": children,
    }


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:  # the thread ended meanwhile
        return []


def _left(before: dict[str, list[str]]) -> dict[str, list[str]]:
    after = _state()
    for name, values in before.items():
        for value in values:
            if value in after[name]:
                after[name].remove(value)
    return after


def sources(
    folder: Path, kinds: tuple[str, ...], recorded_s: float = RECORDED_S
) -> Iterator[Source]:
    """Yield the sources of these kinds: `synthetic`, `recording`, or `paced`."""
    for kind in kinds:
        if kind == "synthetic":
            yield open_source(f"synthetic:{SIZE[1]}x{SIZE[0]}@{RATE_HZ:g}")
        elif kind == "recording":
            path = folder / "thirty_hertz.mcap"
            write_recording(path, recorded_s)
            yield open_source(str(path), SourceOptions(loop=True))
        else:
            yield PacedSource(moving_frames(int(RATE_HZ)), RATE_HZ)


def moving_frames(count: int) -> list[np.ndarray]:
    """Return frames of a textured wall that slides by, which goes round after `count` frames."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 255, (SIZE[0] // 16, SIZE[1] // 16, 3), np.uint8)
    wall = cells.repeat(16, axis=0).repeat(16, axis=1)
    step = SIZE[1] // count
    return [np.ascontiguousarray(np.roll(wall, step * index, axis=1)) for index in range(count)]


def write_recording(path: Path, seconds: float) -> None:
    """Write raw images at 30 frames a second, as a bag of ROS 2 in MCAP."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_HUMBLE)
    kinds = types.types
    image, header = kinds["sensor_msgs/msg/Image"], kinds["std_msgs/msg/Header"]
    moment = kinds["builtin_interfaces/msg/Time"]
    frames = moving_frames(int(RATE_HZ))
    folder = path.with_suffix("")
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/camera/image_raw", image.__msgtype__, typestore=types)
        for index in range(int(seconds * RATE_HZ)):
            stamp = 1_700_000_000_000_000_000 + int(index / RATE_HZ * 1e9)
            message = image(
                header=header(moment(stamp // 10**9, stamp % 10**9), "camera"),
                height=SIZE[0],
                width=SIZE[1],
                encoding="rgb8",
                is_bigendian=0,
                step=3 * SIZE[1],
                data=frames[index % len(frames)].reshape(-1),
            )
            writer.write(topic, stamp, types.serialize_cdr(message, image.__msgtype__))
    next(folder.glob("*.mcap")).rename(path)


def ending(bundle: Path, how: str) -> Ending:
    """End a stream in a process of its own, and see what it left."""
    command = [sys.executable, __file__, str(bundle), "--child", how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = float(process.stdout.readline())  # by now it gave some results
        if how in ("SIGTERM", "SIGINT"):
            started = time.monotonic()
            process.send_signal(getattr(signal, how))
        stopped = json.loads(process.stdout.readline())
    return Ending(how, stopped["at"] - started, process.returncode, stopped["left"])


def _child(bundle: Path, how: str) -> None:
    """Run a stream until a signal comes, or raise an error after some results."""
    # As the command line does it: the stream is closed on the way out. A shell starts background
    # jobs with SIGINT ignored, and Python then leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with degmix_edge.load(bundle, threads=1) as session:
        session(moving_frames(1)[0])  # what it makes once is no leak
        before = _state()
        try:
            with degmix_edge.stream(session, next(sources(Path(), ("paced",)))) as running:
                for index, _ in enumerate(running):
                    if index == 10:
                        print(time.monotonic(), flush=True)
                    if index >= 10 and how == ENDINGS[2]:
                        raise ConsumerError
        finally:
            print(json.dumps({"at": time.monotonic(), "left": _left(before)}), flush=True)


def table(soaks: list[Soak], endings: list[Ending]) -> str:
    """Return what was found as text, a line for each run."""
    lines = [
        f"{'source':28} {'s':>5} {'frames':>7} {'lost':>5} {'taken':>6} {'dropped':>7} "
        f"{'age p50':>8} {'p95':>7} {'limit':>7} {'MB/h':>7} {'+-':>6}  verdict"
    ]
    for one in soaks:
        slope, error = one.slope_mb_per_hour, one.slope_error
        memory = ("-", "-") if slope is None else (f"{slope:.2f}", f"{error or 0:.2f}")
        lines.append(
            f"{one.source.rpartition('/')[2]:28} {one.seconds:5.0f} {one.captured:7} {one.lost:5} "
            f"{one.delivered:6} {sum(one.dropped.values()):7} {one.age_p50_ms:8.1f} "
            f"{one.age_p95_ms:7.1f} {one.age_limit_ms:7.1f} {memory[0]:>7} {memory[1]:>6}  "
            f"{'; '.join(one.problems) or 'passed'}"
        )
        lines.append("    dropped: " + ", ".join(f"{n} {c}" for c, n in one.dropped.items() if n))
    for end in endings:
        verdict = "; ".join(end.problems) or "passed"
        lines.append(f"{end.how}: stopped after {end.seconds:.2f} s, nothing left: {verdict}")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign; returns 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=600, help="for each source")
    parser.add_argument("--sources", default="synthetic,recording", help="or paced")
    parser.add_argument("--json", type=Path, help="write what was found here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        try:
            _child(options.bundle, options.child)
        except KeyboardInterrupt:
            return 130
        except ConsumerError:
            return 1
        return 0
    kinds = tuple(options.sources.split(","))
    with tempfile.TemporaryDirectory() as folder:
        with degmix_edge.load(options.bundle, threads=1) as session:
            for frame in moving_frames(20):  # arenas grow in the first calls
                session(frame)
            made = sources(Path(folder), kinds)
            soaks = [soak(session, source, options.seconds) for source in made]
    endings = [ending(options.bundle, how) for how in ENDINGS]
    print(table(soaks, endings))
    problems = [problem for one in (*soaks, *endings) for problem in one.problems]
    if options.json:
        found = {"soaks": soaks, "endings": endings}
        values = {name: [dataclasses.asdict(one) for one in many] for name, many in found.items()}
        text = json.dumps({**values, "problems": problems}, indent=1)
        options.json.write_text(text + "\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
