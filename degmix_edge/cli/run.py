"""`degmix-edge run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import BACKEND, NAME_OR_FILE, PATH, SIZE, TASKS
from degmix_edge.cli._verb import example, verb

GROUP = "Run"
EXAMPLE = example(
    "run robot.degmix photo.jpg --out maps/",
    "run robot.degmix drive.mcap --out maps.mcap --out overlay.mp4",
    "run robot.degmix /dev/video0 --view rerun --rate depth=30 --rate semseg=10",
)


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=PATH)
@click.argument("sources", nargs=-1, required=True, type=NAME_OR_FILE)
@click.option(
    "--out",
    "outputs",
    type=NAME_OR_FILE,
    multiple=True,
    help="Write maps here: a folder; of a stream also .mcap, .mp4 or .rrd. May be repeated.",
)
@click.option("--tasks", type=TASKS, metavar="A,B", default="", help="Write these tasks only.")
@click.option(
    "--native", is_flag=True, help="Maps at each image's own size instead of the network's."
)
@click.option("--view", "views", multiple=True, help="Watch a stream: rerun or foxglove, [:PORT].")
@click.option("--view-rate", type=float, help="Results a second that a view shows. [default: 10]")
@click.option(
    "--rate", "rates", multiple=True, metavar="TASK=HZ", help="How often a task of a stream runs."
)
@click.option(
    "--fast/--timed",
    default=None,
    help="Read a recording as fast as possible, or as it was recorded. [default: fast, unless "
    "there is a view]",
)
@click.option("--topic", help="The topic with the images, of a recording with several.")
@click.option("--duration", type=float, metavar="SECONDS", help="End a stream after this time.")
@click.option("--with-image", is_flag=True, help="Put the camera's images into the .mcap too.")
@click.option("--backend", type=BACKEND, metavar="NAME", default="auto", show_default=True)
@click.option("--force", is_flag=True, help="Replace maps of an earlier run.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--threads", type=click.IntRange(1))
@verb
def command(output: Output, bundle: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Run BUNDLE on SOURCES: images and folders, or a video, a recording, a camera or a URL.

    For every image: OUT/NAME.npz with the arrays of all tasks, and OUT/NAME.TASK.png to look at.
    Of a stream, OUT and the views get the maps of every frame until it ends, or Ctrl-C.
    """
    from degmix_edge.workflows.record import Recording, recording_table, run_sources

    found = run_sources(bundle, sources, **options)
    if isinstance(found, Recording):
        output.table(*recording_table(found))
        output.say(f"written: {', '.join(map(str, found.files)) or 'nothing'}")
        output.result({"bundle": bundle, **vars(found)})
        raise click.exceptions.Exit(found.exit_code)
    rows = [[str(i.image), f"{i.total_ms:.1f}", f"{i.net_ms:.1f}"] for i in found.images]
    output.table(f"{bundle}, {', '.join(found.tasks)}", ["image", "total ms", "net ms"], rows)
    if options["outputs"]:
        output.say(f"maps: {options['outputs'][0]}")
    output.result({"bundle": bundle, "tasks": found.tasks, "images": found.images})
