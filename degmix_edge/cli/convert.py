"""`degmix-edge convert`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb

SIZES = {"nyud": (425, 560), "pascal_context": (512, 512)}
"""That the DeMT family was published at, by data set."""


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .safetensors file.")
@click.option("--data", metavar="NAME", help="Data set that it was trained on: class names, size.")
@click.option("--size", metavar="HxW", help="Input size, if it is not the data set's.")
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="A model setting.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--summary", is_flag=True, help="Print no fate of single keys.")
@verb
def command(
    output: Output,
    checkpoint: Path,
    out: Path,
    data: str | None,
    size: str | None,
    overrides: tuple[str, ...],
    force: bool,
    summary: bool,
) -> None:
    """Convert a checkpoint that the authors of DeMT, DeMTG, DeGMix or DenseMTL released.

    Strict: a key that nothing explains ends it. Model, backbone, sizes and tasks are read off the
    weights; what is not in them is assumed and said (--set num_heads=4). No code in the file is
    run.
    """
    from degmix_training import checkpoint as checkpoints
    from degmix_training import data as data_sets
    from degmix_training.authors import import_checkpoint
    from degmix_training.config import TrainConfig

    from degmix_edge import config
    from degmix_edge.cli._files import check_file
    from degmix_edge.cli._models import size as parse_size
    from degmix_edge.errors import ConfigError

    check_file(out, force=force)
    # A folder's classes are the folder's own.
    classes = getattr(data_sets.find(data).DataSet, "classes", None) if data else None
    found = import_checkpoint(checkpoint, classes, config.override({}, overrides))
    name = data or found.data
    height, width = parse_size(size) if size else found.size or SIZES.get(name) or (0, 0)
    if not height:
        raise ConfigError(f"{checkpoint}: trained at a size that is not known; give --size HxW")
    settings = TrainConfig(
        model=found.model,
        network=found.config,
        tasks=tuple(found.tasks),
        height=height,
        width=width,
        mean=found.mean,
        std=found.std,
        data={"name": name, "train": None, "val": None},
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
    output.say(f"{used} of {len(found.fates)} keys fill weights")
    for why, count in Counter(fate.why for fate in found.fates if fate.why).items():
        output.say(f"  {count} keys: {why}")
    for note in found.notes:
        output.say(f"  {note}")
    output.say(f"{out}: written, {height}x{width}")
    output.result(
        {
            "checkpoint": out,
            "model": found.model,
            "network": found.config,
            "tasks": list(found.tasks),
            "size": [height, width],
            "notes": found.notes,
            "fates": found.fates,
        }
    )
