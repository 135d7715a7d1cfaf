"""The command line, `degmix-edge VERB`: each file turns options into one call and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from degmix_edge import registry
from degmix_edge.cli._output import Output
from degmix_edge.cli._verb import first_sentence
from degmix_edge.errors import INTERRUPTED, DegmixError

GROUPS = ("Build", "Run", "Judge", "Train", "Machine")
"""Sections of the first screen, in order; a verb file says its own in `GROUP`."""
PROGRAM = "degmix-edge"


class Verbs(click.Group):
    """A group whose commands are the files of this folder, and entry points of other packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return registry.names(__name__)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb's file."""
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = registry.find(__name__, name).command
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
        for name, module in registry.modules(__name__):
            group = getattr(module, "GROUP", "Other packages")
            sections.setdefault(group, []).append((name, first_sentence(module.command)))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


EXIT_CODES = """\b
Exit codes:
  0 done     1 a bug of ours    2 wrong usage       3 setting or task
  4 images   5 checkpoint       6 ONNX graph        7 tensor shape
  8 build    9 bundle          10 backend          11 CUDA
 12 output target              13 out of tolerance 14 training
130 interrupted
"""


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="degmix-edge", prog_name=PROGRAM)
def verbs() -> None:
    """Multi-task dense prediction from PyTorch to a robot.

    \b
    degmix-edge demo                                  everything, on photographs
    degmix-edge build engine CHECKPOINT --calib DIR   an INT8 bundle, robot.degmix
    degmix-edge run robot.degmix photo.jpg --out maps/

    Human text goes to stderr; with --json, one JSON object goes to stdout.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(invoke(arguments))


def invoke(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    output = Output("--json" in arguments, verbose=bool({"-v", "--verbose"} & set(arguments)))
    try:
        verbs.main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
        return 0
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        error.show()
        output.error_json("UsageError", error.format_message(), error.exit_code)
        return int(error.exit_code)
    except DegmixError as error:
        return output.fail(error)
    except ModuleNotFoundError as error:
        return output.fail(import_module("degmix_edge.cli._needs").missing_package(error))
    except (click.Abort, KeyboardInterrupt):
        output.say("interrupted; nothing half-written is left")
        output.error_json("Interrupted", "interrupted", INTERRUPTED)
        return INTERRUPTED
