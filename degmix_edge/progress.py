"""How long work reports what it does: events, and one listener that hears them.

A public function takes `progress=`, a callable that gets an `Event`, and passes it to `listening`.
Code below it calls `counting`, `finished`, `note` and `warn` without knowing who listens. What a
listener raises ends the work, as any other error does.

    def show(event: Event) -> None:
        print(event.name, event.done, event.total, event.detail)

    degmix_edge.build("degmix_tiny", "robot.degmix", calibration="photos/", progress=show)
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from degmix_edge.errors import DegmixWarning

Kind = Literal["step", "finished", "note", "warning", "table"]


@dataclass(frozen=True)
class Event:
    """One report.

    Attributes:
        name: The stage, such as `calibrate`.
        kind: `step`: some of the stage is done. `finished`: all of it. `note` and `warning`: a line
            for people. `table`: rows for people.
        done: Units that are done.
        total: All units; 0 where they cannot be counted.
        detail: In words: what the stage did, or the line.
        seconds: What a finished stage took.
        rows: A table's columns' names, then its cells; its title is in `detail`.
    """

    name: str
    kind: Kind = "step"
    done: float = 0.0
    total: float = 0.0
    detail: str = ""
    seconds: float = 0.0
    rows: tuple[tuple[str, ...], ...] = ()


Progress = Callable[[Event], None]
_LISTENER: ContextVar[Progress | None] = ContextVar("degmix_progress", default=None)


@contextmanager
def listening(progress: Progress | None) -> Iterator[None]:
    """Send the events of the block to `progress`; None leaves them to an outer listener."""
    if progress is None:
        yield
        return
    token = _LISTENER.set(progress)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def emit(event: Event) -> None:
    """Send an event to the listener, if there is one."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(event)


def note(text: str, name: str = "") -> None:
    """Tell people one line about stage `name`."""
    emit(Event(name, "note", detail=text))


def warn(text: str, name: str = "") -> None:
    """Tell people one line that they should notice. Without a listener it is a Python warning."""
    if _LISTENER.get() is None:
        warnings.warn(text, DegmixWarning, stacklevel=3)
    else:
        emit(Event(name, "warning", detail=text))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show people a table of what was found so far."""
    emit(Event("", "table", detail=title, rows=(tuple(columns), *map(tuple, rows))))


@contextmanager
def counting(name: str, total: float) -> Iterator[Callable[[float], None]]:
    """Report how far stage `name` is: call what this gives with the units that are newly done."""
    start, done = time.perf_counter(), 0.0
    emit(Event(name, total=total))

    def advance(units: float) -> None:
        nonlocal done
        done += units
        emit(Event(name, done=done, total=total))

    yield advance
    emit(Event(name, "finished", done, total, seconds=time.perf_counter() - start))


@contextmanager
def working(name: str) -> Iterator[None]:
    """Report that stage `name` runs, whose units cannot be counted."""
    start = time.perf_counter()
    emit(Event(name))
    yield
    emit(Event(name, "finished", seconds=time.perf_counter() - start))


@dataclass(frozen=True)
class Stage:
    """A finished stage of long work: what it did, and how many seconds it took."""

    name: str
    detail: str
    seconds: float


@dataclass
class Clock:
    """Times the stages of long work, each from the end of the one before it.

    Attributes:
        stages: What is finished, in order.
    """

    stages: list[Stage] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def finished(self, name: str, detail: str) -> None:
        """End stage `name` with what it did; the next one starts now."""
        now = time.perf_counter()
        self.stages.append(Stage(name, detail, now - self.start))
        self.start = now
        emit(Event(name, "finished", detail=detail, seconds=self.stages[-1].seconds))
