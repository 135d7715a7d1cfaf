"""What verbs print: people read stderr, programs read one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Text, tables and progress for people; `result` for programs."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @cached_property
    def console(self) -> Console:
        """stderr; rich honours NO_COLOR and drops colour and bars where there is no terminal."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        if not console.is_terminal:  # a file or a pipe has no width: tables stay whole
            console.width = 200
        return console

    def hush(self) -> None:
        """Print errors only: of a job's processes one talks, and this is another."""
        self.console.quiet, self.as_json = True, False

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One line that should be noticed."""
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def error(self, text: str) -> None:
        """Why the verb ended."""
        self.console.quiet = False
        self.console.print(f"error: {text}", style="red", markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; columns after the first are right-aligned."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.console.print(table)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[float], None]]:
        """A bar with remaining time; without a terminal, one line at the end of what was long."""
        import time

        if not self.console.is_terminal:
            start, done = time.perf_counter(), 0.0

            def count(n: float) -> None:
                nonlocal done
                done += n

            yield count
            seconds = time.perf_counter() - start
            if seconds > 2:
                self.say(f"{what}: {done:.0f} in {seconds:.1f} s")
            return
        from rich.progress import Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A spinner while something runs whose steps cannot be counted."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(what):
            yield

    def result(self, values: dict[str, Any]) -> None:
        """The verb's result, printed only with --json."""
        if self.as_json:
            click.echo(json.dumps(values, indent=1, default=plain))


def emit_error(kind: str, message: str, code: int) -> None:
    """The JSON object of a verb that failed."""
    error = {"type": kind, "message": message, "exit_code": code}
    print(json.dumps({"error": error}), file=sys.stdout)


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its `--json` and hand it an `Output` as first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
    @wraps(function)
    def run(*, as_json: bool, **options: Any) -> None:
        import warnings

        output = Output(as_json)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *rest, **more: _show(output, message)
            function(output, **options)

    return run


def _show(output: Output, message: Warning | str) -> None:
    # Libraries' own deprecation notes are not for the people who type verbs.
    if isinstance(message, UserWarning) and "degmix" in str(message):
        output.warn(str(message))


def plain(value: Any) -> Any:
    """What json cannot write by itself."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        from dataclasses import asdict

        return asdict(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)
