"""`degmix-edge convert`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .safetensors file.")
@click.option(
    "--data",
    type=click.Choice(["nyud", "pascal_context"]),
    default="nyud",
    show_default=True,
    help="Data set that it was trained on: class names and input size.",
)
@click.option("--size", metavar="HxW", help="Input size, if it is not the data set's.")
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="A model setting.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--summary", is_flag=True, help="Print no fate of single keys.")
@verb
def command(
    output: Output,
    checkpoint: Path,
    out: Path,
    data: str,
    size: str | None,
    overrides: tuple[str, ...],
    force: bool,
    summary: bool,
) -> None:
    """Convert a checkpoint that the authors of DeMT, DeMTG or DeGMix released.

    Strict: a key that nothing explains ends it. Model, backbone, width, depth and mixer order are
    read off the weights; the number of heads is not in them (--set num_heads=4). No code in the
    file is run.
    """
    from degmix_training import checkpoint as checkpoints
    from degmix_training import data as data_sets
    from degmix_training.authors import import_checkpoint
    from degmix_training.config import TrainConfig

    from degmix_edge import config
    from degmix_edge.cli._files import check_file
    from degmix_edge.cli._models import size as parse_size

    check_file(out, force=force)
    source = data_sets.find(data).DataSet
    published = {"nyud": (425, 560), "pascal_context": (512, 512)}[data]
    height, width = parse_size(size) if size else published
    found = import_checkpoint(checkpoint, source.classes, config.override({}, overrides))
    settings = TrainConfig(
        model=found.model,
        network=found.config,
        tasks=tuple(found.tasks),
        height=height,
        width=width,
        data={"name": data, "train": None, "val": None},
    )
    card = checkpoints.Card(
        model=found.model,
        tasks=tuple(found.tasks.values()),
        height=height,
        width=width,
        config=settings,
        scores={},
        step=0,
        seed=0,
        commit="unknown",
        versions={"converted from": checkpoint.name},
    )
    checkpoints.save(out, found.network.state_dict(), card)
    if not summary:
        output.table(
            f"{checkpoint}: {len(found.fates)} keys",
            ["key", "became", "why"],
            [[fate.key, fate.became or "-", fate.why] for fate in found.fates],
        )
    used = sum(bool(fate.became) for fate in found.fates)
    output.say(f"{found.model} on {found.config['backbone']}, tasks {', '.join(found.tasks)}")
    order = found.config["mixer_order"].replace("_", " ")
    output.say(f"mixer order: {order}; {used} of {len(found.fates)} keys fill weights")
    for why, count in Counter(fate.why for fate in found.fates if fate.why).items():
        output.say(f"  {count} keys: {why}")
    output.say(f"{out}: written. Heads ({found.config.get('num_heads', 'published')}) are assumed")
    output.result(
        {
            "checkpoint": out,
            "model": found.model,
            "network": found.config,
            "tasks": list(found.tasks),
            "fates": found.fates,
        }
    )
