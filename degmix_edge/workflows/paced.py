"""Images at a steady rate, as a camera gives them: a source for benchmarks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from typing import Any

from degmix_edge.capture import CapturedFrame, Source
from degmix_edge.errors import ConfigError, InputError


class PacedSource(Source):
    """A live source that gives images in turn, each at its moment of a fixed grid.

    The moment on the grid counts as the capture, so that a late wake-up of this process is part of
    the age. Moments that are past before the source is read again count as lost.

    Args:
        images: What a session takes; they are kept in memory, and given in turn.
        rate_hz: Frames a second.
        count: How many frames there are; None is no end.

    Raises:
        InputError: There are no images.
        ConfigError: The rate is no number above 0.
    """

    is_live = True

    def __init__(self, images: Iterable[Any], rate_hz: float, *, count: int | None = None) -> None:
        self.images = list(images)
        if not self.images:
            raise InputError("paced source: no images")
        if not 0 < rate_hz < math.inf:
            raise ConfigError(f"rate: got {rate_hz}, expected a number of frames a second above 0")
        self.rate_hz, self.count = rate_hz, count
        self.name = f"{len(self.images)} images at {rate_hz:g} Hz"
        self._start_ns = self._moment = self._index = 0

    def open(self) -> None:
        """Start the grid."""
        self._start_ns, self._moment = time.monotonic_ns(), 0

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Wait for the next moment of the grid and return its image."""
        if self.count is not None and self._moment >= self.count:
            return None
        past = int((time.monotonic_ns() - self._start_ns) * self.rate_hz / 1e9)
        past = past if self.count is None else min(past, self.count - 1)
        lost = max(0, past - self._moment)
        self._moment += lost
        due = self._start_ns + int(self._moment * 1e9 / self.rate_hz)
        if stop.wait(max(0, due - time.monotonic_ns()) / 1e9):
            return None
        now, stamp = time.monotonic_ns(), time.time_ns()
        image = self.images[self._moment % len(self.images)]
        index, self._index = self._index, self._index + 1
        self._moment += 1
        return CapturedFrame(
            image, now, due, stamp - (now - due), "schedule", index=index, lost=lost
        )

    def close(self) -> None:
        """Keep the images: a source may be opened again."""
