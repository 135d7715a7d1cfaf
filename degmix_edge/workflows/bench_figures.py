"""Figures of results that arrived one after the other: rates, ages, jitter, and their noise."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from degmix_edge.runtime.results import StreamResult

PERCENTILES = (50, 95, 99)
PARTS = ("queue_ms", "pre_ms", "net_ms", "post_ms", "take_ms")
"""The stages of a result, in the order in which it passes them."""
ROW = np.dtype(
    [("index", "i8"), ("received_ns", "i8"), ("arrived_ns", "i8"), ("age_ms", "f8")]
    + [(part, "f8") for part in PARTS]
)
"""One result: the number of its frame, when this process got the frame and when the consumer took
the result, on `time.monotonic_ns`, its age, which is NaN where it is unknown, and its stages."""
BLOCKS = 5
"""Parts of a run of equal length, whose spread says how noisy a figure is."""
BLOCK_RESULTS = 8
"""Results that each of these parts has at least; shorter runs have no noise figures."""
GAP_PERIODS = 2.0
"""An interval between results that is longer than so many periods is a gap."""
HIGHER_IS_BETTER = ("achieved_hz",)
"""Figures of which more is better; of every other one, less is."""
Times: TypeAlias = "np.ndarray | Sequence[float]"


class Arrivals:
    """Results in the order in which the consumer took them.

    The memory is taken at the start: a list that grows would be a part of the growth of memory that
    a long run looks for.

    Args:
        capacity: How many results are expected; more of them cost a copy.
    """

    def __init__(self, capacity: int) -> None:
        self._rows, self._count = _touched(max(1, capacity)), 0

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def add(self, result: StreamResult) -> None:
        """Note a result that was taken now."""
        if self._count == len(self._rows):
            self._rows = np.concatenate((self._rows, _touched(self._count)))
        age = math.nan if result.age_ms is None else result.age_ms
        stages = tuple(result.stages[part] for part in PARTS)
        frame = result.frame
        row = (frame.index, frame.received_ns, time.monotonic_ns(), age, *stages)
        self._rows[self._count] = row
        self._count += 1

    @property
    def rows(self) -> np.ndarray:
        """An array of `ROW`."""
        filled: np.ndarray = self._rows[: self._count]
        return filled


def _touched(count: int) -> np.ndarray:
    """Rows whose memory is there already, and not only when it is written to."""
    rows = np.empty(count, ROW)
    rows.view(np.uint8).fill(1)
    return rows


def age_ms(rows: np.ndarray) -> np.ndarray:
    """Return milliseconds from the capture until a result was taken, where these are known."""
    ages: np.ndarray = rows["age_ms"][~np.isnan(rows["age_ms"])]
    return ages


def latency_ms(rows: np.ndarray) -> np.ndarray:
    """Return milliseconds from the receipt of the frame until its result was taken."""
    latencies: np.ndarray = (rows["arrived_ns"] - rows["received_ns"]) / 1e6
    return latencies


def call_ms(rows: np.ndarray) -> np.ndarray:
    """Return what computing each result took in milliseconds."""
    calls: np.ndarray = rows["pre_ms"] + rows["net_ms"] + rows["post_ms"]
    return calls


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


def percentiles(values: Times) -> dict[str, float]:
    """Return `p50`, `p95`, `p99` and `max`; an empty mapping where there are no values."""
    if not len(values):
        return {}
    found = np.percentile(values, PERCENTILES)
    named = {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}
    return named | {"max": float(np.max(values))}


def jitter_ms(arrived_ns: np.ndarray) -> dict[str, float]:
    """Return `mean`, `max`, `min` and `std` of the jitter in milliseconds.

    The jitter is what ros2_benchmark calls so: how much an interval between two results differs
    from the interval before it, without a sign. Three results are needed, else it is empty.
    """
    if len(arrived_ns) < 3:
        return {}
    found = np.abs(np.diff(arrived_ns, 2)) / 1e6
    return {
        "mean": float(found.mean()),
        "max": float(found.max()),
        "min": float(found.min()),
        "std": float(found.std()),
    }


def achieved_hz(arrived_ns: np.ndarray) -> float | None:
    """Return the results a second: the intervals between them, over the time that these took."""
    if len(arrived_ns) < 2 or arrived_ns[-1] == arrived_ns[0]:
        return None
    return float((len(arrived_ns) - 1) * 1e9 / (arrived_ns[-1] - arrived_ns[0]))


def gaps(arrived_ns: np.ndarray, period_ms: float) -> tuple[int, float | None]:
    """Return how many intervals between results are longer than two periods, and the longest."""
    found: Any = np.diff(arrived_ns) / 1e6
    if not len(found):
        return 0, None
    return int((found > GAP_PERIODS * period_ms).sum()), float(found.max())


def figures(rows: np.ndarray) -> dict[str, Figure]:
    """Return the figures by which two runs are compared, each with its noise."""
    whole = _figures(rows)
    blocks = [_figures(block) for block in _blocks(rows)]
    return {
        name: Figure(value, tuple(block[name] for block in blocks if name in block))
        for name, value in whole.items()
    }


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Parts of equal time."""
    if len(rows) < 2:
        return []
    arrived = rows["arrived_ns"]
    ends = np.linspace(arrived[0], arrived[-1], BLOCKS + 1)[1:-1]
    parts = np.split(rows, np.searchsorted(arrived, ends))
    return parts if min(map(len, parts)) >= BLOCK_RESULTS else []


def _figures(rows: np.ndarray) -> dict[str, float]:
    values: dict[str, float | None] = {"achieved_hz": achieved_hz(rows["arrived_ns"])}
    of_time = {"age": age_ms(rows), "latency": latency_ms(rows), "call": call_ms(rows)}
    for name, times in of_time.items():
        found = percentiles(times)
        values |= {f"{name}_{p}_ms": found.get(p) for p in ("p50", "p95", "p99")}
    values["jitter_mean_ms"] = jitter_ms(rows["arrived_ns"]).get("mean")
    return {name: value for name, value in values.items() if value is not None}
