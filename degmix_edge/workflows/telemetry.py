"""What a machine does while it works: watts, degrees, clocks, load and memory, once a second.

All of it is read from sysfs and procfs, without root and without another program. What a machine
does not tell is left out, and is never a zero.
"""

from __future__ import annotations

import math
import os
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from degmix_edge.workflows.board import ROOT, file_number, file_text, memory_bytes, read_clocks

INTERVAL_S = 1.0
"""Between two samples."""
SETTLED = 0.2
"""The part of a run after which the line through the memory begins: caches fill up before."""
INPUTS = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails through which the whole module, or the whole board, is fed."""
PARTS_OF_AGX_ORIN = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""Rails of the AGX Orin, which has none for the whole; its other rails hang below these."""


@dataclass(frozen=True)
class Sample:
    """One moment. An empty mapping and None are not known.

    Attributes:
        at_ns: When, on `time.monotonic_ns`.
        rails_w: Watts by rail.
        temperatures_c: Degrees Celsius by thermal zone.
        clocks_mhz: By clock, as in `Board.clocks`.
        gpu_percent: How busy the GPU was.
        over_current: Events of too low a voltage or too high a current since the machine started.
        host_ticks: Ticks in which the processor was busy, and all ticks, since it started.
        host_memory_percent: How much of the memory is used, by all processes.
        rss_bytes: Resident memory of this process.
        cpu_s: Seconds of processor time that this process took, of all cores together.
    """

    at_ns: int
    rails_w: dict[str, float] = field(default_factory=dict)
    temperatures_c: dict[str, float] = field(default_factory=dict)
    clocks_mhz: dict[str, float] = field(default_factory=dict)
    gpu_percent: float | None = None
    over_current: int | None = None
    host_ticks: tuple[int, int] | None = None
    host_memory_percent: float | None = None
    rss_bytes: int | None = None
    cpu_s: float = 0.0

    @property
    def total_w(self) -> float | None:
        """Watts of the module or the board; None where its rails do not add up to that."""
        return total_w(self.rails_w)


@dataclass(frozen=True)
class Range:
    """How a figure moved over a run."""

    mean: float
    min: float
    max: float
    std: float


@dataclass(frozen=True)
class Usage:
    """What a run took of its machine. An empty mapping and None are not known.

    Attributes:
        seconds: How long it was watched.
        cpu_percent: Processor time of this process, in percent of one core.
        host_cpu_percent: How busy all cores were with all processes.
        host_memory_percent: How much of the memory was used, by all processes.
        rss_mb: Resident memory of this process in megabytes.
        rss_slope_mb_per_hour: Its growth, by least squares over the last 80 percent of the run.
        rss_slope_error: The standard error of that slope.
        rails_w: Watts by rail.
        total_w: Watts of the module or the board.
        temperatures_c: Degrees Celsius by thermal zone.
        clocks_mhz: By clock.
        gpu_percent: How busy the GPU was.
        over_current_events: Events of too low a voltage or too high a current during the run.
    """

    seconds: float
    cpu_percent: float | None
    host_cpu_percent: Range | None
    host_memory_percent: Range | None
    rss_mb: Range | None
    rss_slope_mb_per_hour: float | None
    rss_slope_error: float | None
    rails_w: dict[str, Range]
    total_w: Range | None
    temperatures_c: dict[str, Range]
    clocks_mhz: dict[str, Range]
    gpu_percent: Range | None
    over_current_events: int | None

    @property
    def other_percent(self) -> float | None:
        """How busy all cores were with other processes; None where that is not known."""
        if self.host_cpu_percent is None or self.cpu_percent is None:
            return None
        own = self.cpu_percent / (os.cpu_count() or 1)
        return max(0.0, self.host_cpu_percent.mean - own)

    @property
    def moved_clocks(self) -> tuple[str, ...]:
        """Clocks that moved by more than two percent, so that latencies may differ by more."""
        return tuple(n for n, r in self.clocks_mhz.items() if r.max - r.min > 0.02 * r.max)


def read_sample(root: Path = ROOT) -> Sample:
    """Return what the files below `root` say now; the process is always this one."""
    return Sample(
        at_ns=time.monotonic_ns(),
        rails_w=read_rails(root),
        temperatures_c=_temperatures(root),
        clocks_mhz={name: clock.now_mhz for name, clock in read_clocks(root).items()},
        gpu_percent=_gpu_percent(root),
        over_current=_over_current(root),
        host_ticks=_host_ticks(root),
        host_memory_percent=_memory_percent(root),
        rss_bytes=_rss_bytes(root),
        cpu_s=time.process_time(),
    )


def read_rails(root: Path = ROOT) -> dict[str, float]:
    """Return watts by rail, of the monitors INA3221 (Orin, Thor) and INA238 (Thor)."""
    rails = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not (file_text(folder / "name") or "").startswith("ina"):
            continue
        labels = sorted(folder.glob("in[123]_label"))
        names = {path.name[2]: file_text(path) for path in labels}
        names = names or {"1": file_text(folder / "label")}
        for channel, name in names.items():
            watts = _watts(folder, channel)
            if name and name != "NC" and watts is not None:
                rails[name] = watts
    return rails


def _watts(folder: Path, channel: str) -> float | None:
    """Microwatts where the monitor multiplies itself, else millivolts by milliamperes."""
    power = file_number(folder / f"power{channel}_input")
    if power is not None:
        return power / 1e6
    volts = file_number(folder / f"in{channel}_input")
    amperes = file_number(folder / f"curr{channel}_input")
    return None if volts is None or amperes is None else volts * amperes / 1e6


def total_w(rails_w: Mapping[str, float]) -> float | None:
    """Return the watts of the whole, of rails that are not fed by each other; else None."""
    for name in INPUTS:
        if name in rails_w:
            return rails_w[name]
    if all(name in rails_w for name in PARTS_OF_AGX_ORIN):
        return sum(rails_w[name] for name in PARTS_OF_AGX_ORIN)
    return None


def _temperatures(root: Path) -> dict[str, float]:
    """Degrees by zone. A zone whose part is switched off cannot be read, and is left out."""
    found = {}
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value, name = file_number(folder / "temp"), file_text(folder / "type")
        if value is not None and name:
            found[name.removesuffix("-thermal")] = value / 1000
    return found


def _gpu_percent(root: Path) -> float | None:
    folders = (root / "sys/devices/platform").glob("*gpu*/load")
    devices = (root / "sys/class/devfreq").glob("*gpu*/device/load")
    for path in (*sorted(folders), *sorted(devices)):
        if (per_mille := file_number(path)) is not None:
            return per_mille / 10
    return None


def _over_current(root: Path) -> int | None:
    counts = map(file_number, (root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _host_ticks(root: Path) -> tuple[int, int] | None:
    first = (file_text(root / "proc/stat") or "").partition("\n")[0].split()
    if len(first) < 6 or first[0] != "cpu":
        return None
    ticks = [int(value) for value in first[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle, and waiting for a disk


def _memory_percent(root: Path) -> float | None:
    sizes = memory_bytes(root)
    if not {"MemTotal", "MemAvailable"} <= sizes.keys():
        return None
    return 100 * (1 - sizes["MemAvailable"] / sizes["MemTotal"])


def _rss_bytes(root: Path) -> int | None:
    pages = (file_text(root / "proc/self/statm") or "").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else None


class Sampler(threading.Thread):
    """Takes samples until it is stopped: `with Sampler() as sampler: ...`.

    Args:
        root: The root of the file tree.
        interval_s: Seconds between two samples; the last one is of the moment of the stop.
    """

    def __init__(self, root: Path = ROOT, interval_s: float = INTERVAL_S) -> None:
        super().__init__(name="degmix-telemetry", daemon=True)
        self._root, self._interval, self._stopped = root, interval_s, threading.Event()
        self._meter = Meter()

    def run(self) -> None:
        """Take samples."""
        self._meter.add(read_sample(self._root))
        while not self._stopped.wait(self._interval):
            self._meter.add(read_sample(self._root))
        self._meter.add(read_sample(self._root))

    def __enter__(self) -> Sampler:
        """Start."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the last sample and stop."""
        self._stopped.set()
        self.join()

    def usage(self) -> Usage:
        """Return what happened between the start and the stop."""
        return self._meter.usage()


class _Running:
    """Mean, minimum, maximum and deviation of values that come one by one (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, value: float) -> None:
        """Note a value."""
        self.count += 1
        away = value - self.mean
        self.mean += away / self.count
        self.squares += away * (value - self.mean)
        self.low, self.high = min(self.low, value), max(self.high, value)

    def range(self) -> Range:
        """Return them."""
        return Range(self.mean, self.low, self.high, math.sqrt(self.squares / self.count))


class Meter:
    """Sums up samples one by one. It keeps none of them: they would be a part of the growth.

    Only moments and sizes of the resident memory stay, which are 16 bytes for each sample.
    """

    def __init__(self) -> None:
        self._first: Sample | None = None
        self._last: Sample | None = None
        self._memory = array("q"), array("q")
        self._running: dict[tuple[str, str], _Running] = defaultdict(_Running)

    def add(self, sample: Sample) -> None:
        """Note a sample; they come in order."""
        named: dict[str, Mapping[str, float | None]] = {
            "rails_w": sample.rails_w,
            "temperatures_c": sample.temperatures_c,
            "clocks_mhz": sample.clocks_mhz,
            "": {
                "total_w": sample.total_w,
                "gpu_percent": sample.gpu_percent,
                "host_cpu_percent": self._busy(sample),
                "host_memory_percent": sample.host_memory_percent,
                "rss_mb": None if sample.rss_bytes is None else sample.rss_bytes / 1e6,
            },
        }
        for group, values in named.items():
            for name, value in values.items():
                if value is not None:
                    self._running[group, name].add(value)
        if sample.rss_bytes is not None:
            self._memory[0].append(sample.at_ns)
            self._memory[1].append(sample.rss_bytes)
        self._first, self._last = self._first or sample, sample

    def _busy(self, sample: Sample) -> float | None:
        """Percent of all cores since the last sample."""
        before = None if self._last is None else self._last.host_ticks
        if before is None or sample.host_ticks is None:
            return None
        busy, every = (b - a for a, b in zip(before, sample.host_ticks, strict=True))
        return 100 * busy / every if every > 0 else None

    def usage(self) -> Usage:
        """Return what happened from the first sample to the last."""
        first, last = self._first, self._last
        if first is None or last is None:
            raise ValueError("no samples")
        seconds = (last.at_ns - first.at_ns) / 1e9
        slope, error = memory_slope(*self._memory)
        events = None
        if first.over_current is not None and last.over_current is not None:
            events = last.over_current - first.over_current
        single = self._group("")
        return Usage(
            seconds=seconds,
            cpu_percent=100 * (last.cpu_s - first.cpu_s) / seconds if seconds else None,
            host_cpu_percent=single.get("host_cpu_percent"),
            host_memory_percent=single.get("host_memory_percent"),
            rss_mb=single.get("rss_mb"),
            rss_slope_mb_per_hour=slope,
            rss_slope_error=error,
            rails_w=self._group("rails_w"),
            total_w=single.get("total_w"),
            temperatures_c=self._group("temperatures_c"),
            clocks_mhz=self._group("clocks_mhz"),
            gpu_percent=single.get("gpu_percent"),
            over_current_events=events,
        )

    def _group(self, name: str) -> dict[str, Range]:
        found = {key: running for (group, key), running in self._running.items() if group == name}
        return {key: found[key].range() for key in sorted(found)}


def memory_slope(
    at_ns: Sequence[int], rss_bytes: Sequence[int]
) -> tuple[float | None, float | None]:
    """Return the growth of the resident memory in megabytes an hour, and its standard error.

    It is the line of least squares through the last 80 percent of the run. Both are None where
    there are fewer than four samples.
    """
    hours, megabytes = np.array(at_ns) / 3.6e12, np.array(rss_bytes) / 1e6
    if len(hours):
        settled = hours >= hours[0] + SETTLED * (hours[-1] - hours[0])
        hours, megabytes = hours[settled], megabytes[settled]
    if len(hours) < 4:
        return None, None
    away = hours - hours.mean()
    slope = float(away @ megabytes / (away @ away))
    rest = megabytes - megabytes.mean() - slope * away
    return slope, float(np.sqrt(rest @ rest / (len(hours) - 2) / (away @ away)))
