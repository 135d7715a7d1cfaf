"""The clock of a recording that is replayed at its own speed."""

from __future__ import annotations

import threading
import time

LATE_NS = 1_000_000_000
"""A replay that is later than this goes on from where it is, instead of catching up."""


class ReplayClock:
    """Says when each moment of a recording is due, on `time.monotonic_ns`.

    The first moment is due at once, and every later one as long after it as it was recorded, so
    that errors of single waits do not add up. Where the recording's time jumps back, as when it
    begins again, the next moment is due one period after the last one. A machine that is too slow
    for the recording replays it slower: after a delay of a second, the clock goes on from now.

    Attributes:
        jumps: How often the recording's time went back.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self._offset: int | None = None
        self._stamp = self._due = self._gap = 0

    def is_past(self, stamp_ns: int) -> bool:
        """Return whether a later moment of the recording is due already."""
        later = self._offset is not None and stamp_ns >= self._stamp
        return later and stamp_ns + (self._offset or 0) <= time.monotonic_ns()

    def wait(self, stamp_ns: int, stop: threading.Event) -> int | None:
        """Wait until a moment is due and return that time; None where `stop` was set before.

        Args:
            stamp_ns: The moment on the recording's own clock, in nanoseconds.
            stop: Ends the wait.
        """
        now = time.monotonic_ns()
        if self._offset is None:
            due = now
        elif stamp_ns < self._stamp:
            self.jumps += 1
            due = self._due + self._gap
        else:
            due = stamp_ns + self._offset
            self._gap = stamp_ns - self._stamp or self._gap
        due = due if now - due < LATE_NS else now
        self._offset, self._stamp, self._due = due - stamp_ns, stamp_ns, due
        if stop.wait(max(0, due - now) / 1e9):
            return None
        return due
