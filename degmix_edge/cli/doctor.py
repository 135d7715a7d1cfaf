"""`degmix-edge doctor`."""

from __future__ import annotations

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._verb import example, verb

GROUP = "Machine"
EXAMPLE = example("doctor --json")


@click.command(epilog=EXAMPLE)
@verb
def command(output: Output) -> None:
    """Say what this machine has, what is missing, and the command that mends it."""
    from degmix_edge.workflows.doctor import examine

    checks = examine()
    for check in checks:
        output.say(f"{check.status:<8}{check.name:<20}{check.found}")
        if check.advice:
            output.say(f"{'':<28}-> {check.advice}")
    output.result({"checks": checks})
