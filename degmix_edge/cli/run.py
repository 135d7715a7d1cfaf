"""`degmix-edge run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import BACKEND, NAME_OR_FILE, PATH, SIZE, TASKS
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Run"


@verb(
    "run robot.degmix drive.mcap --out maps.mcap --out overlay.mp4",
    "run robot.degmix /dev/video0 --view rerun --rate depth=30 --rate semseg=10",
)
@click.argument("bundle", type=PATH)
@click.argument("sources", nargs=-1, required=True, type=NAME_OR_FILE)
@click.option("--out", "outputs", type=NAME_OR_FILE, multiple=True, help="A folder, .mcap or .mp4.")
@click.option("--tasks", type=TASKS, default=(), help="Write these tasks only.")
@click.option("--native", is_flag=True, help="Files of maps at each image's own size.")
@click.option("--view", "views", multiple=True, help="Watch a stream: rerun or foxglove, [:PORT].")
@click.option("--view-rate", type=float, help="Results a second that a view shows. [default: 10]")
@click.option("--rate", multiple=True, metavar="TASK=HZ", help="Of a task of a stream.")
@click.option("--fast/--timed", default=None, help="Of a recording. [default: fast without views]")
@click.option("--topic", help="The topic with the images, of a recording with several.")
@click.option("--duration", "duration_s", type=float, metavar="SECONDS", help="End a stream.")
@click.option("--with-image", is_flag=True, default=None, help="Images into the .mcap, too.")
@click.option("--backend", type=BACKEND, default="auto")
@click.option("--force", is_flag=True, help="Replace maps of an earlier run.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--threads", type=click.IntRange(1), help="Of the engine, on a CPU.")
def command(output: Output, bundle: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Run BUNDLE on SOURCES: images and folders, or a video, a recording, a camera or a URL.

    Images give OUT/NAME.npz with the arrays of all tasks, and OUT/NAME.TASK.png to look at. A
    stream runs until it ends or Ctrl-C, and every OUT and view gets its maps.
    """
    from degmix_edge.workflows.run import run_sources

    found = run_sources(bundle, sources, **options)
    output.show(found.text())
    output.result({"bundle": bundle, **found.values})
    click.get_current_context().exit(found.exit_code)
