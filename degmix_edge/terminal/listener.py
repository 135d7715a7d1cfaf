"""Shows the events of a workflow: bars on a terminal, else a line now and then."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from degmix_edge.errors import DegmixWarning
from degmix_edge.progress import Event, Stage, listening
from degmix_edge.terminal.bars import Bars
from degmix_edge.terminal.output import Output

LONG_SECONDS = 2.0
"""A counted stage that took longer says so at its end."""
EVERY_SECONDS = 10.0
"""Between two lines of a running stage, where there is no terminal for a bar."""


class Listener:
    """Prints to `output` what it hears."""

    def __init__(self, output: Output) -> None:
        self.output, self._bars, self._told = output, Bars(), time.monotonic()

    def hear(self, event: Event) -> None:
        """Show an event of a workflow: a bar on a terminal, else a line now and then."""
        if event.kind == "note":
            self.output.say(event.detail)
        elif event.kind == "warning":
            self.output.warn(event.detail)
        elif event.kind == "table":
            self.output.table(event.detail, event.rows[0], event.rows[1:])
        elif event.kind == "finished":
            self._bars.drop(event.name)
            self._finished(event)
        elif self.output.console.is_terminal and not self.output.quiet:
            self._bars.move(event, self.output.console)
        elif event.total and event.done and time.monotonic() - self._told > EVERY_SECONDS:
            self._told = time.monotonic()
            self.output.say(
                f"  {event.name}: {event.done:.0f} of {event.total:.0f} {event.detail}".rstrip()
            )

    def _finished(self, event: Event) -> None:
        if event.detail:
            self.output.stages.append(Stage(event.name, event.detail, event.seconds))
            self.output.say(f"{event.name:<13}{event.seconds:6.1f} s  {event.detail}")
        elif event.total and (self.output.verbose or event.seconds > LONG_SECONDS):
            self.output.say(f"{event.name}: {event.done:.0f} in {event.seconds:.1f} s")

    def close(self) -> None:
        """Take bars off the screen."""
        self._bars.close()


@contextmanager
def shown(output: Output | None = None) -> Iterator[Output]:
    """Show what the workflows in the block report, and their warnings, on stderr.

    Args:
        output: Prints it; None prints everything except what is for programs.
    """
    output = output or Output(as_json=False)
    listener = Listener(output)
    with warnings.catch_warnings(), listening(listener.hear):
        warnings.showwarning = lambda message, kind, *rest, **more: _show(output, message, kind)
        try:
            yield output
        finally:
            listener.close()


def _show(output: Output, message: Warning | str, kind: type[Warning]) -> None:
    # Deprecation notes of libraries are for their developers.
    if issubclass(kind, DegmixWarning):
        output.warn(str(message))
