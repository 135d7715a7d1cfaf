"""Progress bars on a terminal: one for each stage that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from degmix_edge.progress import Event
from degmix_edge.terminal.plain import plain

if TYPE_CHECKING:
    from rich.console import Console


class Bars:
    """Bars with the remaining time, by stage; a stage that cannot be counted pulses."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def move(self, event: Event, console: Console) -> None:
        """Draw how far a stage is."""
        if self._progress is None:
            from rich.progress import Progress, TimeRemainingColumn

            columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
            self._progress = Progress(*columns, console=console, transient=True)
            self._progress.start()
        total = event.total or None
        if event.name not in self._tasks:
            self._tasks[event.name] = self._progress.add_task(event.name, total=total)
        self._progress.update(
            self._tasks[event.name],
            completed=event.done,
            total=total,
            description=plain(f"{event.name} {event.detail}".rstrip()),
        )

    def drop(self, name: str) -> None:
        """Take a stage's bar off the screen."""
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
        if self._progress is not None and not self._tasks:
            self._progress.stop()
            self._progress = None

    def close(self) -> None:
        """Take every bar off the screen."""
        for name in list(self._tasks):
            self.drop(name)
