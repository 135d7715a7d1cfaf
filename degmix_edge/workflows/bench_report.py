"""A stream's figures for people: tables and sentences."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from degmix_edge.report.text import TextTable
from degmix_edge.workflows.bench_record import Comparison, known
from degmix_edge.workflows.bench_stream import StreamBench
from degmix_edge.workflows.telemetry import Range, Usage

SLOPE_S = 60.0
"""The memory of a shorter run is still settling."""


def stream_text(bench: StreamBench, comparison: Comparison | None) -> Iterator[str | TextTable]:
    """Yield a run's figures, and what changed since an older one."""
    yield figure_table(bench)
    yield from lines(bench)
    if comparison is not None:
        yield change_table(comparison)
        yield from change_lines(comparison)


def figure_table(bench: StreamBench) -> TextTable:
    """The times of a run by percentile."""
    stages = {name.removesuffix("_ms"): bench.stages_ms[name] for name in bench.stages_ms}
    rows: list[tuple[str, Mapping[str, float] | None]] = [
        ("age", bench.age_ms),
        ("latency", bench.latency_ms),
        ("call", bench.call_ms),
        *((f"  {name}", times) for name, times in stages.items()),
    ]
    return TextTable(
        f"{bench.bundle}, {bench.precision}, {bench.source}, {bench.seconds:.0f} s",
        ["", "p50 ms", "p95 ms", "p99 ms", "max ms"],
        [[name, *(_cell(times, p) for p in ("p50", "p95", "p99", "max"))] for name, times in rows],
    )


def _cell(times: Mapping[str, float] | None, name: str) -> str:
    return f"{times[name]:.1f}" if times else "unknown"


def change_table(comparison: Comparison) -> TextTable:
    """One row for each figure of two runs."""
    rows = [
        [
            change.name,
            f"{change.before:.2f}",
            f"{change.after:.2f}",
            "-" if change.ratio is None else f"{change.ratio:.3f}",
            change.verdict,
        ]
        for change in comparison.changes
    ]
    return TextTable("against the record", ["figure", "before", "now", "ratio", "verdict"], rows)


def change_lines(comparison: Comparison) -> Iterator[str]:
    """Yield what differs between two runs besides their figures."""
    if comparison.machines:
        yield "another machine, so the ratios say nothing: " + "; ".join(comparison.machines)
    if comparison.settings:
        yield "other settings: " + "; ".join(comparison.settings)


def lines(bench: StreamBench) -> Iterator[str]:
    """Yield what a person should know of a run, one line each, the most important one first."""
    yield bench.verdict
    causes = ", ".join(f"{count} {cause}" for cause, count in bench.missed.items() if count)
    missed = f"{sum(bench.missed.values())} without a result" + (f" ({causes})" if causes else "")
    way = f" {'+' if bench.in_stream > 0 else '-'} {abs(bench.in_stream)} on their way"
    yield (
        f"frames: {bench.offered} offered = {bench.delivered} delivered + {missed}"
        f"{way if bench.in_stream else ''}"
    )
    if bench.ended:
        yield f"the source ended after {bench.seconds:.1f} s"
    if bench.jitter_ms:
        gap = bench.longest_gap_ms or 0.0
        yield (
            f"jitter: mean {bench.jitter_ms['mean']:.2f} ms, max {bench.jitter_ms['max']:.2f} ms; "
            f"{bench.gaps} gaps longer than two periods, the longest interval {gap:.1f} ms"
        )
    if bench.rates is not None:
        yield "tasks: " + ", ".join(f"{n} {hz:.1f} Hz" for n, hz in bench.task_hz.items() if hz)
    idle = bench.after_idle
    if idle is not None and not idle.calls_ms:
        yield "first call after a pause: not known, because the source ended"
    elif idle is not None:
        first = statistics.median(idle.calls_ms)
        yield (
            f"first call after {idle.idle_s:g} s without work: {first:.1f} ms, the median of "
            f"{len(idle.calls_ms)}; a call in the run: {idle.usual_ms:.1f} ms"
        )
    yield from _usage_lines(bench)


def _usage_lines(bench: StreamBench) -> Iterator[str]:
    used = bench.usage
    if used.cpu_percent is not None:
        yield f"processor: {used.cpu_percent:.0f} % of one core{_others(used.other_percent)}"
    if used.rss_mb is not None:
        yield f"memory: {used.rss_mb.max:.0f} MB; {_slope(used)}"
    if bench.board.is_jetson:
        yield f"power mode: {known(bench.board.power_mode)}; {_power(used.total_w)}"
        yield "rails: " + (_ranges(used.rails_w, "W") or "not known")
    if used.temperatures_c:
        yield "temperatures: " + _ranges(used.temperatures_c, "C", most=True)
    if moved := used.moved_clocks:
        yield f"clocks moved, so latencies of two runs may differ: {', '.join(moved)}"
    if used.over_current_events:
        yield f"{used.over_current_events} events of too low a voltage or too high a current"


def _slope(used: Usage) -> str:
    if used.seconds < SLOPE_S or used.rss_slope_mb_per_hour is None:
        return f"its slope needs a run of {SLOPE_S:.0f} s or more"
    return f"slope {used.rss_slope_mb_per_hour:+.2f} +- {used.rss_slope_error or 0:.2f} MB/h"


def _others(percent: float | None) -> str:
    if percent is None or percent < 10:
        return ""
    return f"; other programs took {percent:.0f} % of the machine, so the times are too high"


def _power(total: Range | None) -> str:
    return "watts not known" if total is None else f"{total.mean:.1f} W, at most {total.max:.1f} W"


def _ranges(ranges: Mapping[str, Range], unit: str, *, most: bool = False) -> str:
    return ", ".join(f"{n} {r.max if most else r.mean:.1f} {unit}" for n, r in ranges.items())
