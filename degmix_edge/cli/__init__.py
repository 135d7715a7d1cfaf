"""The command line, `degmix-edge VERB`: each file turns options into one call and prints."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence

import click

from degmix_edge.cli._input_options import joined
from degmix_edge.cli._verbs import GROUPS, Verbs
from degmix_edge.errors import INTERRUPTED, BackendError, DegmixError, OutputError
from degmix_edge.extras import EXTRAS, missing_package
from degmix_edge.terminal import Output

__all__ = ["GROUPS", "invoke", "main", "verbs"]
PROGRAM = "degmix-edge"
ROLES = {"demo": "demo", "export": "export", "prune": "export", "train": "train"}
"""Verbs that need a whole extra: that of one missing package would lack the next one."""


EXIT_CODES = """\b
Exit codes:
  0 done     1 a bug of ours    2 wrong usage       3 setting or task
  4 images   5 checkpoint       6 ONNX graph        7 tensor shape
  8 build    9 bundle          10 backend          11 CUDA
 12 output target              13 out of tolerance 14 training
 15 camera or other source    130 interrupted
"""


@click.group(
    cls=Verbs,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
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
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(invoke(arguments))


def _terminated(number: int, frame: object) -> None:
    """End as after Ctrl-C, so that what was begun is removed."""
    raise SystemExit(128 + number)


def invoke(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    output = Output("--json" in arguments, verbose=bool({"-v", "--verbose"} & set(arguments)))
    try:
        code = verbs.main(args=joined(arguments), prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)  # click returns what a verb gives to `Context.exit`
    except click.ClickException as error:
        error.show()
        output.error_json("UsageError", error.format_message(), error.exit_code)
        return int(error.exit_code)
    except DegmixError as error:
        return output.fail(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:  # a bug of ours
            raise
        verb = next((word for word in arguments if not word.startswith("-")), "")
        return output.fail(missing_package(package, "this verb", BackendError, ROLES.get(verb)))
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        output.as_json = False
        return output.fail(OutputError(f"standard output cannot be written ({error.strerror})"))
    except (click.Abort, KeyboardInterrupt) as stop:
        if isinstance(stop.__cause__, EOFError):  # click takes it for Ctrl-D
            raise stop.__cause__ from None
        output.say("interrupted; nothing half-written is left")
        output.error_json("Interrupted", "interrupted", INTERRUPTED)
        return INTERRUPTED
