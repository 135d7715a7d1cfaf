"""`degmix-edge verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import BACKEND, PATH
from degmix_edge.cli._verb import example, verb

GROUP = "Judge"
EXAMPLE = example("verify robot.degmix", "verify robot.degmix --key fleet.pub.pem")


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=PATH)
@click.option("--backend", type=BACKEND, metavar="NAME", default="auto", show_default=True)
@click.option(
    "--key", "keys", type=PATH, multiple=True, help="Public key that signed it, or an authority's."
)
@click.option("--identity", metavar="NAME", help="For whom the authority certified the key.")
@click.option("--not-before", metavar="TIME", help="Refuse a bundle that was built earlier.")
@verb
def command(output: Output, bundle: Path, **options: Any) -> None:
    """Check every file's hash and the signature, then compare the golden image's maps.

    A bundle for several sizes has a golden image for each, and all are run.
    """
    from degmix_edge.errors import AccuracyError
    from degmix_edge.workflows.verify import verify

    found = verify(bundle, **options)
    output.say(f"{found.files} files have the hashes that the manifest says")
    output.say(f"signed by key {found.signer}" if found.signer else "no signature was asked for")
    for size, golden in found.sizes.items():
        at = f", {size}" if len(found.sizes) > 1 else ""
        output.say(f"golden image{at}: {golden.text}")
    output.result({"bundle": bundle, **vars(found)})
    if not found.passed:
        worst = "; ".join(golden.text for golden in found.sizes.values() if not golden.passed)
        raise AccuracyError(f"{bundle}: gives other maps here than where it was built: {worst}")
    output.say("verified")
