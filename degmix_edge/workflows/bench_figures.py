"""Figures of results that arrived one after the other: rates, ages, jitter, and their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

PERCENTILES = (50, 95, 99)
PARTS = ("queue_ms", "pre_ms", "net_ms", "post_ms", "take_ms")
"""The stages of a result, in the order in which it passes them."""
BLOCKS = 5
"""Parts of a run of equal length, whose spread says how noisy a figure is."""
BLOCK_RESULTS = 8
"""Results that each of these parts has at least; shorter runs have no noise figures."""
GAP_PERIODS = 2.0
"""An interval between results that is longer than so many periods is a gap."""
HIGHER_IS_BETTER = ("achieved_hz",)
"""Figures of which more is better; of every other one, less is."""


@dataclass(frozen=True)
class Arrival:
    """One result, as the consumer got it.

    Attributes:
        index: The number of its frame at the source.
        received_ns: When this process got the frame, on `time.monotonic_ns`.
        arrived_ns: When the consumer took the result, on the same clock.
        age_ms: From the capture until then; None where the moment of capture is unknown.
        stages: Milliseconds by stage, as in `StreamResult.stages`.
        fresh: Tasks that ran on this frame.
    """

    index: int
    received_ns: int
    arrived_ns: int
    age_ms: float | None
    stages: dict[str, float]
    fresh: tuple[str, ...]

    @property
    def call_ms(self) -> float:
        """What computing it took."""
        return self.stages["pre_ms"] + self.stages["net_ms"] + self.stages["post_ms"]

    @property
    def latency_ms(self) -> float:
        """From the receipt of the frame until the consumer took the result."""
        return (self.arrived_ns - self.received_ns) / 1e6


@dataclass(frozen=True)
class Figure:
    """A figure of a run, and the same figure of each of its parts.

    Attributes:
        value: Over the whole run.
        blocks: Over each of five parts of equal length; empty where the run is too short.
    """

    value: float
    blocks: tuple[float, ...] = field(default=())

    @property
    def error(self) -> float | None:
        """The standard error of the mean of the parts; None without parts."""
        if len(self.blocks) < 2:
            return None
        return float(np.std(self.blocks, ddof=1) / np.sqrt(len(self.blocks)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return `p50`, `p95`, `p99` and `max`; an empty mapping where there are no values."""
    if not len(values):
        return {}
    found = np.percentile(values, PERCENTILES)
    named = {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}
    return named | {"max": float(max(values))}


def jitter_ms(arrived_ns: Sequence[int]) -> dict[str, float]:
    """Return `mean`, `max`, `min` and `std` of the jitter in milliseconds.

    The jitter is what ros2_benchmark calls so: how much an interval between two results differs
    from the interval before it, without a sign. Three results are needed, else it is empty.
    """
    if len(arrived_ns) < 3:
        return {}
    found = np.abs(np.diff(np.array(arrived_ns, np.int64), 2)) / 1e6
    return {
        "mean": float(found.mean()),
        "max": float(found.max()),
        "min": float(found.min()),
        "std": float(found.std()),
    }


def achieved_hz(arrived_ns: Sequence[int]) -> float | None:
    """Return the results a second: the intervals between them, over the time that these took."""
    if len(arrived_ns) < 2 or arrived_ns[-1] == arrived_ns[0]:
        return None
    return (len(arrived_ns) - 1) * 1e9 / (arrived_ns[-1] - arrived_ns[0])


def gaps(arrived_ns: Sequence[int], period_ms: float) -> tuple[int, float | None]:
    """Return how many intervals between results are longer than two periods, and the longest."""
    found = [(b - a) / 1e6 for a, b in zip(arrived_ns, arrived_ns[1:], strict=False)]
    longer = sum(interval > GAP_PERIODS * period_ms for interval in found)
    return longer, max(found, default=None)


def figures(arrivals: Sequence[Arrival]) -> dict[str, Figure]:
    """Return the figures by which two runs are compared, each with its noise."""
    whole = _figures(arrivals)
    blocks = [_figures(block) for block in _blocks(arrivals)]
    return {
        name: Figure(value, tuple(block[name] for block in blocks if name in block))
        for name, value in whole.items()
    }


def _blocks(arrivals: Sequence[Arrival]) -> list[list[Arrival]]:
    """Parts of equal time."""
    if len(arrivals) < 2:
        return []
    start, end = arrivals[0].arrived_ns, arrivals[-1].arrived_ns
    parts: list[list[Arrival]] = [[] for _ in range(BLOCKS)]
    for one in arrivals:
        place = int(BLOCKS * (one.arrived_ns - start) / (end - start + 1))
        parts[place].append(one)
    return parts if min(map(len, parts)) >= BLOCK_RESULTS else []


def _figures(arrivals: Sequence[Arrival]) -> dict[str, float]:
    arrived = [one.arrived_ns for one in arrivals]
    values: dict[str, float | None] = {"achieved_hz": achieved_hz(arrived)}
    ages = [one.age_ms for one in arrivals if one.age_ms is not None]
    of_time = {
        "age": ages,
        "latency": [one.latency_ms for one in arrivals],
        "call": [one.call_ms for one in arrivals],
    }
    for name, times in of_time.items():
        found = percentiles(times)
        values |= {f"{name}_{p}_ms": found.get(p) for p in ("p50", "p95", "p99")}
    values["jitter_mean_ms"] = jitter_ms(arrived).get("mean")
    return {name: value for name, value in values.items() if value is not None}
