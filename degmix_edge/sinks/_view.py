"""What all live views have in common: a thread of their own that shows the newest result."""

from __future__ import annotations

import threading
import time
import warnings
from abc import abstractmethod

from degmix_edge.errors import ConfigError, DegmixWarning
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions

STOP_S = 1.0
"""Seconds that a view may take to end."""


class View(Sink):
    """A sink that shows the newest result, a few times a second, from its own thread.

    `write` returns at once. A result that was not shown when a newer one comes is left out. A view
    that fails warns once and shows nothing from then on; it never stops whoever writes to it. A map
    that was held from an earlier frame is shown with the time of the frame that it comes with.

    Args:
        name: What messages call it.
        options: How many results a second it shows.

    Attributes:
        hint: How one opens the view.
        error: What ended the view; None while it works.
        shown: Results that it showed.

    Raises:
        ConfigError: The rate is out of range.
    """

    hint: str = ""

    def __init__(self, name: str, options: SinkOptions) -> None:
        if not 0 < options.rate_hz < float("inf"):
            raise ConfigError(f"{name}: rate {options.rate_hz!r}, expected a number above 0")
        self.name, self.shown = name, 0
        self.error: Exception | None = None
        self._period_s = 1 / options.rate_hz
        self._newest: StreamResult | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"degmix-{name}", daemon=True)

    def _start(self) -> None:
        """Start the thread; a subclass calls this when it is ready to show."""
        self._thread.start()

    @abstractmethod
    def _show(self, result: StreamResult) -> None:
        """Show one result."""

    @abstractmethod
    def _end(self) -> None:
        """Let go of what the view opened. This is called once."""

    def write(self, result: StreamResult) -> None:
        """Lay the result down for the view's thread."""
        with self._changed:
            self._newest = result
            self._changed.notify_all()

    def close(self) -> None:
        """End the view within a second."""
        if self._stop.is_set():
            return
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(STOP_S)
        self._end()

    def _run(self) -> None:
        while (result := self._next()) is not None:
            start = time.monotonic()
            try:
                self._show(result)
            except Exception as error:  # whatever a viewer's library raises
                self.error = error
                warnings.warn(
                    f"degmix-edge: the view {self.name} has ended, and everything else goes on: "
                    f"{type(error).__name__}: {error}",
                    category=DegmixWarning,
                    stacklevel=2,
                )
                return
            self.shown += 1
            self._stop.wait(self._period_s - (time.monotonic() - start))

    def _next(self) -> StreamResult | None:
        """Wait for the newest result; None is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._stop.is_set())
            result, self._newest = self._newest, None
        return None if self._stop.is_set() else result
