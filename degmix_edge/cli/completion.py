"""`degmix-edge completion`."""

from __future__ import annotations

import click

from degmix_edge.cli._verb import example

GROUP = "Machine"


@click.command(
    epilog=example(
        "completion bash >> ~/.bashrc",
        "completion fish > ~/.config/fish/completions/degmix-edge.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that lets a shell complete verbs, options and names."""
    from click.shell_completion import get_completion_class

    from degmix_edge.cli import PROGRAM, verbs

    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    variable = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(verbs, {}, PROGRAM, variable).source())
