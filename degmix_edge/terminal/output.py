"""What people read on stderr, and what programs read: one JSON object on stdout."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.errors import DegmixError, OutputError
from degmix_edge.progress import Stage
from degmix_edge.report.text import Doubt, TextTable
from degmix_edge.report.values import json_text
from degmix_edge.terminal.plain import plain

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Text, tables and progress for people; `result` for programs.

    Args:
        as_json: Print the result as one JSON object.
        quiet: Print warnings and errors only.
        verbose: Say what short stages took, and show tracebacks.
        log: A file that gets every line with its time.

    Raises:
        OutputError: `log` cannot be written.
    """

    def __init__(
        self, as_json: bool, *, quiet: bool = False, verbose: bool = False, log: Path | None = None
    ) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        try:
            self.log = log.open("a") if log else None
        except OSError as error:
            raise OutputError(
                f"--log-file {log}: cannot be written ({error.strerror}); choose another file"
            ) from None
        self.stages: list[Stage] = []  # that the workflow has finished

    @cached_property
    def console(self) -> Console:
        """stderr; rich honours NO_COLOR and drops colour and bars where there is no terminal."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        if not console.is_terminal:  # a file or a pipe has no width: tables stay whole
            console.width = 200
        return console

    def hush(self) -> None:
        """Print errors only; used by every process of a distributed job except the first."""
        self.console.quiet, self.as_json = True, False

    def say(self, text: str) -> None:
        """Print one line."""
        self._line(text, shown=not self.quiet)

    def warn(self, text: str) -> None:
        """Print one line that should be noticed."""
        self._line(f"warning: {text}", "yellow")

    def error(self, text: str) -> None:
        """Print why the verb ended."""
        self.console.quiet = False
        self._line("error: " + text, "red")

    def fail(self, error: DegmixError) -> int:
        """Print an error, with --verbose where it was raised; returns its exit code."""
        if self.verbose:
            self.console.print_exception()
        self.error(f"{type(error).__name__}: {error}")
        self.error_json(type(error).__name__, str(error), error.exit_code)
        return error.exit_code

    def error_json(self, kind: str, message: str, code: int) -> None:
        """Print the JSON object of a verb that failed, with --json only."""
        if self.as_json:
            error = {"type": kind, "message": message, "exit_code": code}
            print(json.dumps({"error": error}), flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; columns after the first are right-aligned."""
        from rich.table import Table
        from rich.text import Text

        rows = [[plain(cell) for cell in row] for row in rows]
        table = Table(title=plain(title), title_justify="left", box=None, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        for row in (columns, *rows):
            self._write("  ".join(row))
        if not self.quiet:
            self.console.print(table)

    def show(self, text: Iterable[str | TextTable]) -> None:
        """Print what a result says of itself."""
        for item in text:
            if isinstance(item, TextTable):
                self.table(*item)
            else:
                (self.warn if isinstance(item, Doubt) else self.say)(item)

    def result(self, values: dict[str, Any]) -> None:
        """Print the verb's result, with --json only, at once: a server goes on after it."""
        if self.as_json:
            print(json_text(values), flush=True)

    def close(self) -> None:
        """Close the log."""
        if self.log:
            self.log.close()

    def _line(self, text: str, style: str | None = None, *, shown: bool = True) -> None:
        text = plain(text)
        self._write(text)
        if shown:
            self.console.print(text, style=style, markup=False)

    def _write(self, text: str) -> None:
        if self.log:
            print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=self.log, flush=True)
