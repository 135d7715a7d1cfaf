"""What every verb has: the options about output, and an `Output` that hears its workflow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._listener import Listener
from degmix_edge.cli._output import Output
from degmix_edge.errors import DegmixWarning
from degmix_edge.progress import listening


class Group(click.Group):
    """A group whose help shows the whole first sentence of each command, at any width."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(n, first_sentence(c)) for n, c in self.commands.items()])


def first_sentence(command: click.Command) -> str:
    """The first paragraph of a command's help, as one line."""
    return (command.help or "").split("\n\n")[0].replace("\n", " ")


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options about output, and hand it an `Output` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
    @click.option("--quiet", "-q", is_flag=True, help="Print warnings and errors only.")
    @click.option("--verbose", "-v", is_flag=True, help="Print more, and tracebacks of errors.")
    @click.option(
        "--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Append all text here."
    )
    @wraps(function)
    def run(
        *, as_json: bool, quiet: bool, verbose: bool, log_file: Path | None, **options: Any
    ) -> None:
        output = Output(as_json, quiet=quiet, verbose=verbose, log=log_file)
        listener = Listener(output)
        with warnings.catch_warnings(), listening(listener.hear):
            warnings.showwarning = lambda message, kind, *rest, **more: _show(output, message, kind)
            try:
                function(output, **options)
            finally:
                listener.close()
                output.close()

    return run


def _show(output: Output, message: Warning | str, kind: type[Warning]) -> None:
    # Libraries' own deprecation notes are not for the people who type verbs.
    if issubclass(kind, DegmixWarning):
        output.warn(str(message))


def example(*commands: str) -> str:
    """The end of a verb's help: commands that people can type."""
    return "\b\nExample:\n" + "\n".join(f"  degmix-edge {command}" for command in commands)
