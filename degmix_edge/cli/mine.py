"""`degmix-edge mine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import NAME_OR_FILE, PATH, TASKS
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Judge"


@verb(
    "mine labels --by uncertainty --k 500 --out hard",
    "mine labels --by disagreement --against labels-int8 --k 200 --out disputed",
)
@click.argument("labels", type=PATH)
@click.option("--out", type=PATH, required=True, help="The folder to write.")
@click.option(
    "--by", type=click.Choice(["uncertainty", "disagreement", "novelty"]), default="uncertainty"
)
@click.option("--k", type=click.IntRange(1), default=500, help="Images.")
@click.option("--against", type=PATH, help="By disagreement: the labels of another bundle.")
@click.option(
    "--calib", "calibration", type=NAME_OR_FILE, help="By novelty: images to be far from."
)
@click.option("--tasks", type=TASKS, default=(), help="Only these count.")
@click.option("--force", is_flag=True, help="Replace what is in OUT.")
def command(output: Output, labels: Path, out: Path, **options: Any) -> None:
    """Choose the images of LABELS that are worth annotating or calibrating with.

    OUT/images is a folder that --calib takes, OUT/chosen.csv has the scores, and OUT/sheet.png
    shows the first images with their maps.
    """
    from degmix_edge.workflows.mine import mine

    found = mine(labels, out, **options)
    output.say(f"{found.images}: {len(found.chosen)} of {found.among} images, by {options['by']}")
    output.result({"labels": labels, **vars(found)})
