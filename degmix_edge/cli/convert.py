"""`degmix-edge convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import DATA_SET, PATH, SIZE
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Build"


@verb("convert released.pth.tar --data nyud --out degmix.safetensors")
@click.argument("checkpoint", type=PATH)
@click.option("--out", type=PATH, required=True, help="A .safetensors file.")
@click.option("--data", type=DATA_SET, help="Data set that it was trained on: class names, size.")
@click.option("--size", type=SIZE, help="Input size, if it is not the data set's.")
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="A model setting.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--summary", is_flag=True, help="Do not list every key.")
def command(output: Output, checkpoint: Path, out: Path, summary: bool, **options: Any) -> None:
    """Convert a checkpoint that a network's authors released.

    These are the authors of DeMT, DeMTG, DeGMix, DenseMTL, InvPT and TaskPrompter.

    Strict: a key that nothing explains ends it. Model, backbone, sizes and tasks are read off the
    weights; what is not in them is assumed and said (--set num_heads=4). No code in the file is
    run.
    """
    from degmix_edge.workflows.convert import convert

    found = convert(checkpoint, out, **options)
    if not summary:
        output.table(*found.key_table())
    output.show(found.text())
    output.result(found.values())
