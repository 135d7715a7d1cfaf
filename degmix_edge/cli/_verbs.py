"""The verbs as a click group: the files of this folder, and entry points of other packages."""

from __future__ import annotations

import click

from degmix_edge import registry
from degmix_edge.cli._verb import first_sentence

PACKAGE = "degmix_edge.cli"
GROUPS = ("Build", "Run", "Judge", "Train", "Machine")
"""Sections of the first screen, in order; a verb file says its own in `GROUP`."""


class Verbs(click.Group):
    """A group whose commands are the files of this folder, and entry points of other packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return registry.names(PACKAGE)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb's file."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = registry.find(PACKAGE, name).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; the message for an unknown one has the nearest."""
        import difflib

        near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
        if near and args[0] != near[0]:
            ctx.fail(f"no verb {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs by group, each with its first sentence."""
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for name, module in registry.modules(PACKAGE):
            group = getattr(module, "GROUP", "Other packages")
            sections.setdefault(group, []).append((name, first_sentence(module.command)))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
