"""`degmix-edge doctor`."""

from __future__ import annotations

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@verb
def command(output: Output) -> None:
    """What this machine has, what is missing, and the command that mends it."""
    from degmix_edge.doctor import examine

    checks = examine()
    for check in checks:
        output.say(f"{check.status:<8}{check.name:<20}{check.found}")
        if check.advice:
            output.say(f"{'':<28}-> {check.advice}")
    output.result({"checks": checks})
