"""What every verb has: examples, the options about output, and an `Output` that shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import File
from degmix_edge.terminal import Output, shown

OUTPUT = [
    click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object to stdout."),
    click.Option(["--quiet", "-q"], is_flag=True, help="Print warnings and errors only."),
    click.Option(["--verbose", "-v"], is_flag=True, help="Print more, and tracebacks of errors."),
    click.Option(
        ["--log-file", "log"],
        type=File(path_type=Path, dir_okay=False),
        help="Append all text here.",
    ),
]


class Group(click.Group):
    """A group whose help shows the whole first sentence of each command, at any width."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(n, first_sentence(c)) for n, c in self.commands.items()])


def first_sentence(command: click.Command) -> str:
    """The first paragraph of a command's help, as one line."""
    return (command.help or "").split("\n\n")[0].replace("\n", " ")


def options(*groups: list[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb all options of the groups, in order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return add


def example(*commands: str) -> str:
    """The end of a verb's help: commands that people can type."""
    return "\b\nExample:\n" + "\n".join(f"  degmix-edge {command}" for command in commands)


def verb(
    *examples: str, of: click.Group | None = None, **settings: Any
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that takes an `Output` first, and then its options.

    Args:
        examples: Command lines without `degmix-edge`, which end the help.
        of: The group that the command belongs to, such as `build`.
        settings: What `click.command` takes.
    """

    def make(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def run(
            *, as_json: bool, quiet: bool, verbose: bool, log: Path | None, **options: Any
        ) -> None:
            output = Output(as_json, quiet=quiet, verbose=verbose, log=log)
            try:
                with shown(output):
                    function(output, **options)
            finally:
                output.close()

        factory = of.command if of else click.command
        command: click.Command = factory(epilog=example(*examples), **settings)(run)
        command.params.extend(OUTPUT)
        return command

    return make
