"""The command line: `degmix-edge VERB`. One file a verb; its imports happen when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from degmix_edge.cli._output import Output, emit_error
from degmix_edge.errors import INTERRUPTED, DegmixError


class Verbs(click.Group):
    """A group whose commands are the files of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a working day."""
        return [
            "demo",
            "train",
            "eval",
            "zoo",
            "data",
            "convert",
            "prune",
            "export",
            "quantize",
            "build",
            "run",
            "compare",
            "bench",
        ] + [
            "inspect",
            "verify",
            "doctor",
        ]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb's file."""
        from importlib import import_module

        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"degmix_edge.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """An unknown verb's message has the nearest one."""
        import difflib

        near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.5)
        if near and args[0] != near[0]:
            ctx.fail(f"no verb {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


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
@click.version_option(package_name="degmix-edge", prog_name="degmix-edge")
def verbs() -> None:
    r"""Multi-task dense prediction from PyTorch to a robot.

    \b
    degmix-edge demo                                    everything, on photographs
    degmix-edge build engine CHECKPOINT --precision int8 --calib DIR --out robot.degmix
    degmix-edge run robot.degmix photo.jpg --out maps/

    Human text goes to stderr; with --json, one JSON object goes to stdout.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(invoke(arguments))


def invoke(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    wants_json = "--json" in arguments
    try:
        verbs.main(args=list(arguments), prog_name="degmix-edge", standalone_mode=False)
        return 0
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        error.show()
        if wants_json:
            emit_error("UsageError", error.format_message(), error.exit_code)
        return int(error.exit_code)
    except DegmixError as error:
        return _fail(error, wants_json)
    except ModuleNotFoundError as error:
        from degmix_edge.cli._needs import missing_package

        return _fail(missing_package(error), wants_json)
    except (click.Abort, KeyboardInterrupt):
        Output(wants_json).say("interrupted; nothing half-written is left")
        if wants_json:
            emit_error("Interrupted", "interrupted", INTERRUPTED)
        return INTERRUPTED


def _fail(error: DegmixError, wants_json: bool) -> int:
    kind = type(error).__name__
    Output(wants_json).error(f"{kind}: {error}")
    if wants_json:
        emit_error(kind, str(error), error.exit_code)
    return error.exit_code
