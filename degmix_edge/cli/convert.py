"""`degmix-edge convert`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import DATA_SET, PATH, SIZE
from degmix_edge.cli._verb import example, verb

GROUP = "Build"
EXAMPLE = example("convert released.pth.tar --data nyud --out degmix.safetensors")


@click.command(epilog=EXAMPLE)
@click.argument("checkpoint", type=PATH)
@click.option("--out", type=PATH, required=True, help="A .safetensors file.")
@click.option(
    "--data",
    type=DATA_SET,
    metavar="NAME",
    help="Data set that it was trained on: class names, size.",
)
@click.option("--size", type=SIZE, help="Input size, if it is not the data set's.")
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="A model setting.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--summary", is_flag=True, help="Do not list every key.")
@verb
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
        output.table(
            f"{checkpoint}: {len(found.fates)} keys",
            ["key", "became", "why"],
            [[fate.key, fate.became or "-", fate.why] for fate in found.fates],
        )
    used = sum(bool(fate.became) for fate in found.fates)
    output.say(f"{found.model} on {found.network['backbone']}, tasks {', '.join(found.tasks)}")
    output.say(f"{used} of {len(found.fates)} keys fill weights")
    for why, count in Counter(fate.why for fate in found.fates if fate.why).items():
        output.say(f"  {count} keys: {why}")
    for note in found.notes:
        output.say(f"  {note}")
    output.say(f"{out}: written, {found.size[0]}x{found.size[1]}")
    names = ("model", "network", "tasks", "size", "notes", "fates")
    output.result({"checkpoint": out, **{name: getattr(found, name) for name in names}})
