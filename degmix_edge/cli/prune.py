"""`degmix-edge prune experts`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import NAME_OR_FILE, PATH
from degmix_edge.cli._verb import Group, verb
from degmix_edge.terminal import Output

GROUP = "Build"


@click.group(cls=Group)
def command() -> None:
    """Make a checkpoint smaller, at a price that is measured."""


@verb(
    "prune experts m3vit.safetensors --calib photos/ --score synthetic:64",
    of=command,
    name="experts",
)
@click.argument("checkpoint", type=NAME_OR_FILE)
@click.option(
    "--calib", "calibration", required=True, metavar="DIR", help="A folder, nyud:DIR, synthetic:64."
)
@click.option("--below", default=2.0, help="Percent of a task's gates; less is dropped.")
@click.option(
    "--score", metavar="DATA", help="Labelled images, nyud:DIR or synthetic:64: before and after."
)
@click.option("--out", type=PATH, default=Path("pruned.safetensors"))
@click.option("--force", is_flag=True, help="Replace --out.")
def experts(
    output: Output, checkpoint: str, *, below: float, score: str | None, out: Path, **options: Any
) -> None:
    """Drop experts of an M3ViT CHECKPOINT that its tasks hardly choose on typical images.

    Lossy: shares are shown, and with --score each task's metric before and after. Train the result
    on with `degmix-edge train ... --set` of the same network to win back what it lost.
    """
    from degmix_edge.workflows.prune import prune_experts

    found = prune_experts(checkpoint, out, below=below / 100, score=score, **options)
    output.show(found.text())
    output.result(found.values())
