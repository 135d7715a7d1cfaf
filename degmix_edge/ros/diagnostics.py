"""What the node reports on `/diagnostics`: counts of the stream, ages, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from degmix_edge.ros.types import DiagnosticStatus, KeyValue
from degmix_edge.runtime.results import CameraStats, StreamStats
from degmix_edge.runtime.stream import CAMERA

OK, WARN, ERROR = 0, 1, 2
"""Levels of a diagnostic status."""
ABOVE = 1.1
"""A task's rate is above the camera's where it is so many times higher."""


@dataclass
class Rates:
    """Images and runs a second, counted between two calls of `update`.

    Attributes:
        camera_hz: Images of the camera a second; None before there were two calls.
        task_hz: Runs a second by task.
    """

    camera_hz: float | None = None
    task_hz: dict[str, float] = field(default_factory=dict)
    _before: tuple[float, CameraStats] | None = None

    def update(self, stats: CameraStats) -> None:
        """Count what came since the last call."""
        now = time.monotonic()
        if self._before is not None and now > self._before[0]:
            seconds, last = now - self._before[0], self._before[1]
            self.camera_hz = (stats.captured - last.captured) / seconds
            self.task_hz = {
                task: (count - last.runs[task]) / seconds for task, count in stats.runs.items()
            }
        self._before = now, stats

    def above_camera(self, asked: Mapping[str, float | None]) -> dict[str, float]:
        """Return tasks whose rate is above the camera's, with that rate."""
        if not self.camera_hz:
            return {}
        most = self.camera_hz * ABOVE
        return {task: rate for task, rate in asked.items() if rate is not None and rate > most}


def status_of(
    name: str, bundle: str, stats: StreamStats, rates: Rates, facts: Mapping[str, str]
) -> DiagnosticStatus:
    """Return the state of a node whose stream runs.

    Args:
        name: The node's name.
        bundle: The bundle, as the hardware's identity.
        stats: The stream's counts.
        rates: What came since the last report.
        facts: Further lines; one called `warning` is the message, and a warning.
    """
    camera, starved = stats.cameras[CAMERA], stats.starved.get(CAMERA, {})
    values = {
        "images": str(camera.captured),
        "results": str(camera.delivered),
        **{f"dropped: {cause}": str(count) for cause, count in camera.dropped.items()},
        "stamps that went back": str(camera.stamps_back),
        "calls over budget": str(stats.over_budget),
        "results over the age limit": str(camera.late),
        "images a second": "unknown" if rates.camera_hz is None else f"{rates.camera_hz:.1f}",
        **{f"{task} a second": f"{hz:.1f}" for task, hz in rates.task_hz.items()},
        **{f"age {key} ms": f"{age:.1f}" for key, age in stats.age_ms.items()},
        **{f"{task} waits for s": f"{seconds:.1f}" for task, seconds in starved.items()},
        "last error": camera.last_error,
        **facts,
    }
    level, text = OK, "running"
    if starved:
        level, text = WARN, f"the budget leaves no room for {', '.join(starved)}"
    if "warning" in facts:
        level, text = WARN, facts["warning"]
    lines = tuple(KeyValue(key, value) for key, value in values.items())
    return DiagnosticStatus(level, name, text, bundle, lines)
