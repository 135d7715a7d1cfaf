"""`degmix-edge prune experts`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import NAME_OR_FILE, PATH
from degmix_edge.cli._verb import Group, example, verb

GROUP = "Build"
EXAMPLE = example("prune experts m3vit.safetensors --calib photos/ --score synthetic:64")


@click.group(cls=Group)
def command() -> None:
    """Make a checkpoint smaller, at a price that is measured."""


@command.command("experts", epilog=EXAMPLE)
@click.argument("checkpoint", type=NAME_OR_FILE)
@click.option(
    "--calib", "calibration", required=True, metavar="DIR", help="A folder, nyud:DIR, synthetic:64."
)
@click.option(
    "--below", default=2.0, show_default=True, help="Percent of a task's gates; less is dropped."
)
@click.option(
    "--score", metavar="DATA", help="Labelled images, nyud:DIR or synthetic:64: before and after."
)
@click.option("--out", type=PATH, default=Path("pruned.safetensors"), show_default=True)
@click.option("--force", is_flag=True, help="Replace --out.")
@verb
def experts(
    output: Output, checkpoint: str, *, below: float, score: str | None, out: Path, **options: Any
) -> None:
    """Drop experts of an M3ViT CHECKPOINT that its tasks hardly choose on typical images.

    Lossy: shares are shown, and with --score each task's metric before and after. Train the result
    on with `degmix-edge train ... --set` of the same network to win back what it lost.
    """
    from degmix_edge.workflows.prune import prune_experts

    found = prune_experts(checkpoint, out, below=below / 100, score=score, **options)
    rows = [
        [f"block {name}", *(f"{100 * float(x):.1f}" for x in share.amax(0)), str(count)]
        for (name, share), count in zip(found.shares.items(), found.left, strict=True)
    ]
    heads = ["largest share of a task [%]", *map(str, range(len(rows[0]) - 2)), "left"]
    output.table("experts", heads, rows)
    if found.scores:
        before, after = found.scores["before"], found.scores["after"]
        cells = [[t, found.metrics[t], f"{before[t]:.3f}", f"{after[t]:.3f}"] for t in before]
        output.table(f"on {score}", ["task", "metric", "before", "after"], cells)
    output.say(f"{out}: {sum(found.left)} of {found.experts} experts left")
    output.result(
        {
            "checkpoint": out,
            "experts_left": found.left,
            "experts": found.experts,
            "shares": {name: share.tolist() for name, share in found.shares.items()},
            "scores": found.scores,
        }
    )
