"""`degmix-edge emit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import PATH, SIZE, TARGET
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Build"


@verb("emit triton robot.degmix --out repository", "emit cpp robot.degmix --out app")
@click.argument("target", type=TARGET)
@click.argument("bundle", type=PATH)
@click.option("--out", type=PATH, required=True, help="The folder to write.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--force", is_flag=True, help="Replace OUT, if it holds nothing else.")
def command(output: Output, target: str, bundle: Path, out: Path, **options: Any) -> None:
    """Write files with which another program runs a bundle: triton, isaac, deepstream, python, cpp.

    The folder holds the model and what the target reads besides it, with the names, shapes, units
    and classes of the bundle. It needs neither degmix-edge nor the bundle.
    """
    from degmix_edge.workflows.emit import emit

    emitted = emit(target, bundle, out, **options)
    for name in emitted.files:
        output.say(f"{out}/{name}: written")
    values = {"target": target, "bundle": bundle, "out": out, "name": emitted.name}
    output.result({**values, "files": emitted.files})
