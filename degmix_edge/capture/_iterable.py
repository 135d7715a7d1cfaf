"""Frames of a Python iterable: a generator, a list, a data loader."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from degmix_edge.camera import FrameFormat
from degmix_edge.capture._base import CapturedFrame, Source


class IterableSource(Source):
    """A source that takes its frames from an iterable, one when the stream is ready for it.

    Args:
        frames: Images as a session takes them, or `CapturedFrame`s, which keep their stamps. An
            iterable that is live blocks until it has the next frame and should do so for less than
            a second, because nothing else can end the wait.
        format: What the bytes of arrays are.
        is_live: Whether frames come when they come, so that one that nobody takes is dropped.
    """

    name = "iterable"

    def __init__(
        self, frames: Iterable[Any], format: FrameFormat = "rgb", *, is_live: bool = False
    ) -> None:
        self.frames, self.format, self.is_live = frames, format, is_live
        self._iterator: Iterator[Any] | None = None
        self._index = 0

    def open(self) -> None:
        """Start the iterable, or go on with it where it was started before."""
        if self._iterator is None:
            self._iterator = iter(self.frames)

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Return the iterable's next frame."""
        assert self._iterator is not None
        for frame in self._iterator:
            index, self._index = self._index, self._index + 1
            now = time.monotonic_ns()
            if isinstance(frame, CapturedFrame):
                return dataclasses.replace(frame, index=index)
            stamp = time.time_ns() if self.is_live else None
            where = "receive" if self.is_live else "unknown"
            return CapturedFrame(frame, now, None, stamp, where, index=index, format=self.format)
        return None

    def close(self) -> None:
        """Keep the iterable, which may go on later."""
