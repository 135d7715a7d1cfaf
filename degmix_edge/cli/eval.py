"""`degmix-edge eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._groups import PARTS
from degmix_edge.cli._types import NAME_OR_FILE, PATH
from degmix_edge.cli._verb import options, verb
from degmix_edge.terminal import Output

GROUP = "Judge"


@verb("eval runs/mine/best.safetensors --data nyud:NYUDv2 --ods")
@click.argument("checkpoint", type=NAME_OR_FILE)
@click.option(
    "--data",
    default="synthetic:64",
    metavar="NAME:DIR",
    help="Labelled data set and its folder, as in nyud:NYUDv2; synthetic:COUNT needs none.",
)
@options(PARTS)
@click.option("--split", help="Split; default: val, of synthetic test.")
@click.option("--count", type=click.IntRange(min=1), help="Only the first images.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="CHECKPOINT",
    help="A single-task network to measure delta_m against; once for each task.",
)
@click.option("--ods", is_flag=True, help="Score boundaries by odsF, as the papers do (slow).")
@click.option("--ods-compat", is_flag=True, help="The same, smoothed first as by pyEdgeEval.")
@click.option("--cache", type=PATH, help="Folder that makes --ods resumable.")
@click.option("--out", type=PATH, help="Write the table to this .md file.")
@click.option("--force", is_flag=True, help="Replace OUT.")
def command(output: Output, checkpoint: str, out: Path | None, force: bool, **options: Any) -> None:
    """Score CHECKPOINT (a file, or degmix_tiny) in PyTorch on labelled images.

    Columns stand in the papers' order, beside the authors' own row where there is one. With
    --baseline, delta_m is printed with its baselines, signs and sources.
    """
    from degmix_edge.files import check_file, write_file
    from degmix_edge.workflows.evaluate import evaluate

    if out:
        check_file(out, force=force)
    found = evaluate(checkpoint, **options)
    output.show(found.text())
    if out:
        write_file(out, found.markdown().encode(), force=force)
        output.say(f"table: {out}")
    values = found.values()
    output.result({"checkpoint": values.pop("checkpoint"), "data": options["data"], **values})
