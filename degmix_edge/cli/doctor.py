"""`degmix-edge doctor`."""

from __future__ import annotations

import click

from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Machine"


@verb("doctor --json")
@click.option("--role", metavar="ROLE", help="robot, build or train. [default: a guess]")
def command(output: Output, role: str | None) -> None:
    """Say what this machine has, what is missing, and the command that mends it."""
    from degmix_edge.workflows.doctor import examine

    checks = examine(role)
    for check in checks:
        output.say(f"{check.status:<8}{check.name:<20}{check.found}")
        if check.advice:
            output.say(f"{'':<28}-> {check.advice}")
    output.result({"checks": checks})
