"""`degmix-edge prune experts`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output, verb


@click.group()
def command() -> None:
    """Make a checkpoint smaller, at a price that is measured."""


@command.command("experts")
@click.argument("checkpoint")
@click.option("--calib", required=True, metavar="DIR", help="A folder, nyud:DIR, synthetic:64.")
@click.option(
    "--below", default=2.0, show_default=True, help="Percent of a task's gates; less is dropped."
)
@click.option(
    "--score", metavar="DATA", help="Labelled images, nyud:DIR or synthetic:64: before and after."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("pruned.safetensors"), show_default=True
)
@click.option("--force", is_flag=True, help="Replace --out.")
@verb
def experts(
    output: Output,
    checkpoint: str,
    calib: str,
    below: float,
    score: str | None,
    out: Path,
    force: bool,
) -> None:
    """Drop experts of an M3ViT CHECKPOINT that its tasks hardly choose on typical images.

    Lossy: shares are shown, and with --score each task's metric before and after. Train the result
    on with `degmix-edge train ... --set` of the same network to win back what it lost.
    """
    import torch
    from degmix_training import checkpoint as checkpoints
    from degmix_training.experts import prune, shares

    from degmix_edge.cli._files import check_file
    from degmix_edge.cli._sources import check_images, images
    from degmix_edge.cli._sources import checkpoint as load
    from degmix_edge.preprocess import Fit, normalise

    check_file(out, force=force)
    check_images(calib)
    loaded = load(checkpoint)
    fit = Fit(height=loaded.card.height, width=loaded.card.width)
    found = images(calib, fit, split="train")
    with output.progress("measure", len(found)) as advance:
        trained = loaded.card.config
        pixels = (normalise(item.fitted(fit)[None], trained.mean, trained.std) for item in found)
        batches = (torch.from_numpy(image) for image in pixels)
        measured = shares(loaded, batches, advance)
    pruned = prune(loaded, measured, below / 100)
    left = pruned.network.config.kept_experts
    rows = [
        [f"block {name}", *(f"{100 * float(x):.1f}" for x in share.amax(0)), str(count)]
        for (name, share), count in zip(measured.items(), left, strict=True)
    ]
    heads = ["largest share of a task [%]", *map(str, range(len(rows[0]) - 2)), "left"]
    output.table("experts", heads, rows)
    scores = _scores(output, loaded, pruned, score)
    checkpoints.save(out, pruned.network.state_dict(), pruned.card)
    total = sum(share.shape[1] for share in measured.values())
    output.say(f"{out}: {sum(left)} of {total} experts left")
    output.result(
        {
            "checkpoint": out,
            "experts_left": left,
            "experts": total,
            "shares": {name: share.tolist() for name, share in measured.items()},
            "scores": scores,
        }
    )


def _scores(output: Output, before: Any, after: Any, data: str | None) -> dict[str, Any]:
    if data is None:
        output.warn("what this costs was not measured; give --score synthetic:64")
        return {}
    from degmix_training.evaluate import network_predictor, score

    from degmix_edge.cli._sources import samples as labelled_samples

    size = (before.card.height, before.card.width)
    _, samples = labelled_samples(data, size, before.tasks)
    values: dict[str, Any] = {}
    for name, checkpoint in (("before", before), ("after", after)):
        predict = network_predictor(checkpoint.network, checkpoint.tasks, checkpoint.card.config)
        with output.progress(f"score {name}", len(samples)) as advance:
            values[name] = score(predict, samples, checkpoint.tasks, advance=advance)
    rows = [
        [task, checkpoint.tasks[task].metric, *(f"{values[n][task]:.3f}" for n in values)]
        for task in values["before"]
    ]
    output.table(f"on {data}", ["task", "metric", "before", "after"], rows)
    return values
