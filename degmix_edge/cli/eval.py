"""`degmix-edge eval`."""

from __future__ import annotations

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("checkpoint")
@click.option(
    "--data", default="synthetic:64", show_default=True, help="Labelled data set, as NAME:COUNT."
)
@verb
def command(output: Output, checkpoint: str, data: str) -> None:
    """Score CHECKPOINT (a file, or degmix_tiny) in PyTorch on the held-out split of a data set."""
    from degmix_training.data import Sample
    from degmix_training.evaluate import network_predictor, score

    from degmix_edge import metrics
    from degmix_edge.cli._sources import checkpoint as load
    from degmix_edge.cli._sources import images
    from degmix_edge.errors import InputError
    from degmix_edge.preprocess import Fit

    loaded = load(checkpoint)
    specs, card = loaded.tasks, loaded.card
    found = images(data, Fit(height=card.height, width=card.width))
    samples = [Sample(i.name, i.image, dict(i.labels)) for i in found]
    if not any(sample.labels for sample in samples):
        raise InputError(f"--data {data}: no labels; give a labelled data set, as in synthetic:64")
    with output.progress("eval", len(samples)) as advance:
        predict = network_predictor(loaded.network, specs)
        scores = score(predict, samples, specs, advance=advance)
    rows = []
    for task, value in scores.items():
        metric = metrics.find(specs[task].metric)
        better = "higher" if metric.higher_is_better else "lower"
        rows.append([task, f"{metric.name} [{metric.unit}]", f"{value:.3f}", better])
    output.table(
        f"{loaded.path.name}, {len(samples)} images of {data}",
        ["task", "metric", "value", "better is"],
        rows,
    )
    output.result({"checkpoint": loaded.path, "data": data, "scores": scores})
