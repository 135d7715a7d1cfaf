"""`degmix-edge verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import BACKEND, PATH
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Judge"


@verb("verify robot.degmix", "verify robot.degmix --key fleet.pub.pem")
@click.argument("bundle", type=PATH)
@click.option("--backend", type=BACKEND, default="auto")
@click.option(
    "--key", "keys", type=PATH, multiple=True, help="Public key that signed it, or an authority's."
)
@click.option("--identity", metavar="NAME", help="For whom the authority certified the key.")
@click.option("--not-before", metavar="TIME", help="Refuse a bundle that was built earlier.")
def command(output: Output, bundle: Path, **options: Any) -> None:
    """Check every file's hash and the signature, then compare the golden image's maps.

    A bundle for several sizes has a golden image for each, and all are run.
    """
    from degmix_edge.workflows.verify import verify

    found = verify(bundle, **options)
    output.show(found.text())
    output.result(vars(found))
    found.check()
    output.say("verified")
