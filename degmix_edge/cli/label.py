"""`degmix-edge label`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import BACKEND, NAME_OR_FILE, PATH, SIZE, TASKS
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Run"


@verb(
    "label night/ --bundle robot.degmix --out labels",
    "label 's3://fleet/night/*.tar' --bundle robot.degmix --out labels --address auto",
)
@click.argument("source", type=NAME_OR_FILE)
@click.option("--bundle", type=PATH, required=True, help="The bundle that labels.")
@click.option("--out", type=PATH, required=True, help="A folder, which all workers see.")
@click.option("--tasks", type=TASKS, default=(), help="Keep these maps only.")
@click.option("--format", type=click.Choice(["parquet", "webdataset"]), default="parquet")
@click.option("--native", is_flag=True, help="Maps at each image's own size.")
@click.option("--workers", type=click.IntRange(1), help="Processes. [default: CPUs / threads]")
@click.option("--threads", type=click.IntRange(1), default=1, help="Of each.")
@click.option("--address", metavar="HOST:PORT", help="A Ray cluster; auto finds it, local is new.")
@click.option("--per-shard", type=click.IntRange(1), default=512, help="Images.")
@click.option(
    "--image-timeout",
    "image_timeout_s",
    type=click.FloatRange(0),
    default=300.0,
    metavar="SECONDS",
    help="For an image.",
)
@click.option("--topic", help="The topic with the images, of a recording with several.")
@click.option("--backend", type=BACKEND, default="auto")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--force", is_flag=True, help="Replace the output of another run.")
def command(output: Output, source: str, bundle: Path, out: Path, **options: Any) -> None:
    """Run a bundle over every image of SOURCE, and keep maps and summaries in shards.

    SOURCE is a folder, a pattern, a file or a URL: images, tar and Parquet files, recordings and
    videos. The same command resumes what was stopped. With --address it runs on a Ray cluster.
    """
    from degmix_edge.workflows.label import label

    found = label(source, bundle, out, **options)
    output.show(found.text())
    output.result({"source": source, "bundle": bundle, **vars(found)})
