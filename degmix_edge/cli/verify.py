"""`degmix-edge verify`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import BACKEND, PATH
from degmix_edge.cli._verb import example, verb

GROUP = "Judge"
EXAMPLE = example("verify robot.degmix")


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=PATH)
@click.option("--backend", type=BACKEND, metavar="NAME", default="auto", show_default=True)
@verb
def command(output: Output, bundle: Path, backend: str) -> None:
    """Check every file's hash, then run the golden image and compare with the golden maps."""
    from degmix_edge.errors import AccuracyError
    from degmix_edge.workflows.verify import verify

    found = verify(bundle, backend=backend)
    output.say(f"{found.files} files have the hashes that the manifest says")
    output.say(f"golden image: {found.golden.text}")
    output.result({"bundle": bundle, "files": found.files, "golden": found.golden})
    if not found.passed:
        raise AccuracyError(
            f"{bundle}: gives other maps here than where it was built: {found.golden.text}"
        )
    output.say("verified")
