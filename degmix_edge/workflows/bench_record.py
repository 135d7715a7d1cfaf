"""Figures of a stream in a file, by ros2_benchmark's names and ours, and what two files differ by.

The keys `BasicPerformanceMetrics.*`, `ResourceMetrics.*` and `BenchmarkMetadata.*` mean what they
mean in reports of ros2_benchmark, so that programs which read those read these. Everything that it
does not know is under `degmix`.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.bundle.contents import Bundle
from degmix_edge.capture import Source
from degmix_edge.errors import InputError
from degmix_edge.files import check_file, write_file
from degmix_edge.report.values import json_text, plain
from degmix_edge.runtime.schedule import read_rates
from degmix_edge.workflows.bench_figures import HIGHER_IS_BETTER, Figure
from degmix_edge.workflows.bench_stream import StreamBench, bench_stream

VERSION = 1
"""Of the part of the file that is ours."""
NOISE_ERRORS = 3.0
"""Two figures differ for sure when they are further apart than so many standard errors."""
SMALL = 0.05
"""The same for a figure without a standard error, as a part of its value."""
MACHINE = ("cpu", "cores", "system", "model", "l4t", "power_mode")
"""What must be equal before figures of two runs say anything about what they ran."""
SETTINGS = ("bundle", "precision", "backend", "source", "offered_hz", "deadline_ms", "rates")
"""What may differ between two runs; a difference is named."""


def recorded_run(
    bundle: str | Path | Bundle,
    source: str | Source | None = None,
    *,
    record: Path | None = None,
    compare: Path | None = None,
    force: bool = False,
    **options: Any,
) -> tuple[StreamBench, Comparison | None]:
    """Run `bench_stream`, write its figures and compare them with an older run.

    Args:
        bundle: The bundle, or its folder.
        source: Where the frames come from.
        record: Where the figures are written; None writes none.
        compare: An older record; None compares with nothing. It may be the file that `record`
            replaces.
        force: Replace `record`.
        **options: Further arguments of `bench_stream`; `rates` may be a text such as
            `depth=30,semseg=10`.

    Raises:
        InputError: `compare` is no such record.
        OutputError: `record` exists without `force`, or cannot be written.
        DegmixError: As `bench_stream`.
    """
    if isinstance(options.get("rates"), str):
        options["rates"] = read_rates(options["rates"])
    old = None if compare is None else read_record(compare)
    if record is not None:
        check_file(record, force=force)
    result = bench_stream(bundle, source, **options)
    if record is not None:
        write_record(result, record, force=force)
    return result, None if old is None else compare_runs(old, result)


def write_record(bench: StreamBench, path: Path, *, force: bool = False) -> None:
    """Write the figures of a run.

    Raises:
        OutputError: The file exists without `force`, or cannot be written.
    """
    write_file(path, (json_text(recorded(bench)) + "\n").encode(), force=force)


def recorded(bench: StreamBench) -> dict[str, Any]:
    """Return what `write_record` writes."""
    return {
        f"{bench.offered_hz:.1f}fps": _performance(bench) | _resources(bench),
        "metadata": _metadata(bench),
        "degmix": {"version": VERSION, "verdict": bench.verdict} | dict(plain(bench)),
    }


def _performance(bench: StreamBench) -> dict[str, float]:
    """Their rates divide the number of frames by the time from the first to the last one."""
    count, hz = bench.delivered, bench.achieved_hz or math.nan
    latency, jitter = bench.latency_ms, bench.jitter_ms
    missed = bench.num_missed
    names = {
        "RECEIVED_DURATION": 1000 * (count - 1) / hz,
        "MEAN_PLAYBACK_FRAME_RATE": bench.offered_hz * bench.offered / max(1, bench.offered - 1),
        "MEAN_FRAME_RATE": hz * count / max(1, count - 1),
        "NUM_MISSED_FRAMES": missed,
        "NUM_FRAMES_SENT": bench.offered,
        "FIRST_SENT_RECEIVED_LATENCY": latency["first"],
        "LAST_SENT_RECEIVED_LATENCY": latency["last"],
        "FIRST_INPUT_LATENCY": latency["first"],
        "LAST_INPUT_LATENCY": latency["last"],
        "MAX_LATENCY": latency["max"],
        "MIN_LATENCY": latency["min"],
        "MEAN_LATENCY": latency["mean"],
        "MAX_JITTER": jitter.get("max"),
        "MIN_JITTER": jitter.get("min"),
        "MEAN_JITTER": jitter.get("mean"),
        "STD_DEV_JITTER": jitter.get("std"),
    }
    return {f"BasicPerformanceMetrics.{n}": v for n, v in names.items() if v is not None}


def _resources(bench: StreamBench) -> dict[str, float]:
    used = bench.usage
    ranges = {
        "OVERALL_CPU_UTILIZATION": used.host_cpu_percent,
        "HOST_MEMORY_UTILIZATION": used.host_memory_percent,
        "DEVICE_UTILIZATION": used.gpu_percent,
    }
    found: dict[str, float] = {}
    for name, one in ranges.items():
        if one is not None:
            parts = {"MAX": one.max, "MIN": one.min, "MEAN": one.mean, "STDDEV": one.std}
            found |= {f"ResourceMetrics.{part}_{name}": v for part, v in parts.items()}
    if used.over_current_events is not None:
        found["ResourceMetrics.OC_EVENT_COUNT"] = used.over_current_events
    return found


def _metadata(bench: StreamBench) -> dict[str, Any]:
    names = {
        "NAME": f"degmix-edge bench {bench.bundle}",
        "TEST_DATETIME": bench.machine["date"],
        "DEVICE_ARCH": platform.machine(),
        "DEVICE_OS": bench.machine["system"],
        "DEVICE_HOSTNAME": platform.node(),
        "INPUT_DATA_PATH": bench.source,
        "CONFIG": {"rates": bench.rates, "deadline_ms": bench.deadline_ms},
    }
    return {f"BenchmarkMetadata.{name}": value for name, value in names.items()}


def read_record(path: Path) -> dict[str, Any]:
    """Return our part of a file that `write_record` wrote.

    Raises:
        InputError: It is no such file.
    """
    try:
        ours = json.loads(path.read_bytes())["degmix"]
        version, _ = ours["version"], ours["figures"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is no record of `degmix-edge bench --record`") from None
    if version != VERSION:
        raise InputError(
            f"{path}: is a record of version {version}, and this degmix-edge reads {VERSION}"
        )
    return dict(ours)


@dataclass(frozen=True)
class Change:
    """One figure of two runs.

    Attributes:
        name: The figure, such as `age_p95_ms`.
        before: Its value in the older run.
        after: Its value in the newer run.
        verdict: `better`, `worse` or `noise`; `other machine` where the runs say nothing about
            each other.
    """

    name: str
    before: float
    after: float
    verdict: str

    @property
    def ratio(self) -> float | None:
        """`after` divided by `before`; None where that is 0."""
        return self.after / self.before if self.before else None


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Attributes:
        changes: Figure by figure.
        machines: What differs between the machines, each in words; empty for the same machine.
        settings: What differs between the runs, each in words.
    """

    changes: tuple[Change, ...]
    machines: tuple[str, ...]
    settings: tuple[str, ...]


def compare_runs(old: Mapping[str, Any], new: StreamBench) -> Comparison:
    """Compare a run with an older one, of which `read_record` gave the figures.

    A figure that was measured in parts is `better` or `worse` when the difference exceeds three
    standard errors of it, and any other figure when it changed by more than 5 percent. On another
    machine there is no verdict.
    """
    now: dict[str, Any] = json.loads(json.dumps(plain(new), default=plain))
    machines = tuple(_differences(_machine(old), _machine(now), MACHINE))
    changes = []
    before, after = _all_figures(old), _all_figures(now)
    for name in before.keys() & after.keys():
        verdict = "other machine" if machines else _verdict(name, before[name], after[name])
        changes.append(Change(name, before[name].value, after[name].value, verdict))
    order = list(after)
    changes.sort(key=lambda change: order.index(change.name))
    settings = tuple(_differences(old, now, SETTINGS))
    return Comparison(tuple(changes), machines, settings)


def _machine(ours: Mapping[str, Any]) -> dict[str, Any]:
    return {**ours.get("machine", {}), **ours.get("board", {})}


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, ...]
) -> Iterator[str]:
    for name in names:
        before, after = old.get(name), new.get(name)
        if isinstance(before, float) and isinstance(after, float):
            if not math.isclose(before, after, rel_tol=0.02):
                yield f"{name}: {before:.1f}, now {after:.1f}"
        elif before != after:
            yield f"{name}: {known(before)}, now {known(after)}"


def known(value: Any) -> str:
    """Return the text of a value that may be None, which is not known."""
    return "not known" if value is None else str(value)


def _all_figures(ours: Mapping[str, Any]) -> dict[str, Figure]:
    """Those with a noise, and those of the whole run."""
    found = {n: Figure(f["value"], tuple(f["blocks"])) for n, f in ours["figures"].items()}
    due = ours["offered"] - ours["missed"].get("no task due", 0)
    missed = sum(count for cause, count in ours["missed"].items() if cause != "no task due")
    used = ours["usage"]
    whole = {
        "missed_percent": 100 * missed / max(1, due),
        "deadline_miss_percent": 100 * (ours["late"] + missed) / max(1, due),
        "cpu_percent": used["cpu_percent"],
        "rss_max_mb": (used["rss_mb"] or {}).get("max"),
        "power_mean_w": (used["total_w"] or {}).get("mean"),
    }
    return found | {name: Figure(value) for name, value in whole.items() if value is not None}


def _verdict(name: str, before: Figure, after: Figure) -> str:
    difference = after.value - before.value
    errors = [one.error for one in (before, after)]
    if None in errors:
        limit = SMALL * max(abs(before.value), abs(after.value))
    else:
        limit = NOISE_ERRORS * math.hypot(*(error or 0.0 for error in errors))
    if abs(difference) <= limit:
        return "noise"
    return "better" if (difference > 0) == (name in HIGHER_IS_BETTER) else "worse"
