"""Latency of sessions: percentiles of every part, contestants alternating in one run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from degmix_edge.errors import InputError
from degmix_edge.preprocess import Image
from degmix_edge.runtime import Latency, Session

PERCENTILES = (50, 90, 99)
PARTS = ("pre_ms", "net_ms", "post_ms", "total_ms")
BLOCK = 10
"""Calls in a row before the other contestant's turn."""
SETTLE = 2
"""Calls at the start of a block that do not count: the other's threads are still spinning."""


@dataclass(frozen=True)
class Result:
    """One contestant: percentiles in milliseconds by part, and how many images a second."""

    name: str
    calls: int
    percentiles: dict[str, dict[str, float]]

    @property
    def median_net_ms(self) -> float:
        """Median of one backend call, bytes in to maps out."""
        return self.percentiles["net_ms"]["p50"]


def bench(
    sessions: dict[str, Session],
    images: Sequence[Image],
    *,
    calls: int = 100,
    warmup: int = 10,
    rate: float | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Result]:
    """Time `calls` images through each session, in alternating blocks.

    Args:
        sessions: By name.
        images: Cycled through.
        calls: That count, for each session.
        warmup: Calls before the first that counts.
        rate: Images a second to offer, as a camera does; None is as fast as possible.
        advance: Called after each block with the calls made.

    Raises:
        InputError: There are no images.
    """
    if not images:
        raise InputError("bench: no images")
    for session in sessions.values():
        for index in range(warmup):
            session(images[index % len(images)])
    latencies: dict[str, list[Latency]] = {name: [] for name in sessions}
    while any(len(done) < calls for done in latencies.values()):
        for name, session in sessions.items():
            latencies[name] += _block(session, images, len(latencies[name]), rate)
            advance(BLOCK)
    return {name: _result(name, done[:calls]) for name, done in latencies.items()}


def _block(
    session: Session, images: Sequence[Image], start: int, rate: float | None
) -> list[Latency]:
    counted = []
    due = time.perf_counter()
    for index in range(SETTLE + BLOCK):
        if rate is not None:
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        session(images[(start + index) % len(images)])
        if index >= SETTLE and session.latency is not None:
            counted.append(session.latency)
    return counted


def _result(name: str, latencies: list[Latency]) -> Result:
    percentiles = {}
    for part in PARTS:
        values = [getattr(latency, part) for latency in latencies]
        found = np.percentile(values, PERCENTILES)
        percentiles[part] = {f"p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)} | {
            "max": max(values)
        }
    return Result(name, len(latencies), percentiles)


def machine() -> dict[str, str]:
    """Where and when a figure was measured."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
