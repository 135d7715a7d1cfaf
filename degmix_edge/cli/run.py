"""`degmix-edge run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import BACKEND, PATH, SIZE, TASKS
from degmix_edge.cli._verb import example, verb

GROUP = "Run"
EXAMPLE = example("run robot.degmix photo.jpg --out maps/")


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="Write maps here; nothing is written without.")
@click.option("--tasks", type=TASKS, metavar="A,B", default="", help="Write these tasks only.")
@click.option(
    "--native", is_flag=True, help="Maps at each image's own size instead of the network's."
)
@click.option("--backend", type=BACKEND, metavar="NAME", default="auto", show_default=True)
@click.option("--force", is_flag=True, help="Replace maps of an earlier run.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--threads", type=click.IntRange(1))
@verb
def command(
    output: Output, bundle: Path, images: tuple[Path, ...], out: Path | None, **options: Any
) -> None:
    """Run BUNDLE on IMAGES (files or folders).

    For every image: OUT/NAME.npz with the arrays of all tasks, and OUT/NAME.TASK.png to look at.
    """
    from degmix_edge.workflows.run import run_images

    found = run_images(bundle, images, out, **options)
    rows = [[str(i.image), f"{i.total_ms:.1f}", f"{i.net_ms:.1f}"] for i in found.images]
    output.table(f"{bundle}, {', '.join(found.tasks)}", ["image", "total ms", "net ms"], rows)
    if out:
        output.say(f"maps: {out}")
    output.result({"bundle": bundle, "tasks": found.tasks, "images": found.images})
