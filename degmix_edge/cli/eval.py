"""`degmix-edge eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from degmix_edge.cli._output import Output, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from degmix_training.checkpoint import Checkpoint
    from degmix_training.data import DataSet, Sample

    from degmix_edge.metrics import Metric


@click.command()
@click.argument("checkpoint")
@click.option(
    "--data",
    default="synthetic:64",
    show_default=True,
    metavar="NAME:DIR",
    help="Labelled data set and its folder, as in nyud:NYUDv2; synthetic:COUNT needs none.",
)
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
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that makes --ods resumable.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table to this .md file.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@verb
def command(
    output: Output,
    checkpoint: str,
    data: str,
    split: str | None,
    count: int | None,
    baselines: tuple[str, ...],
    ods: bool,
    cache: Path | None,
    out: Path | None,
    force: bool,
) -> None:
    """Score CHECKPOINT (a file, or degmix_tiny) in PyTorch on labelled images.

    Columns stand in the papers' order, beside the authors' own row where there is one. With
    --baseline, delta_m is printed with its baselines, signs and sources.
    """
    from degmix_training import published
    from degmix_training.delta_m import delta_m

    from degmix_edge.cli._files import check_file, write_file
    from degmix_edge.cli._sources import checkpoint as load
    from degmix_edge.cli._sources import samples as labelled_samples

    if out:
        check_file(out, force=force)
    loaded = load(checkpoint)
    size = (loaded.card.height, loaded.card.width)
    source, samples = labelled_samples(data, size, loaded.tasks, split, count)
    known = published.columns(source.name)
    order = [t for t in known if t in loaded.tasks] + [t for t in loaded.tasks if t not in known]
    values = _score(output, loaded, source, samples, order, ods, cache)
    row = published.find(source.name, loaded.card.model, _backbone(loaded))
    table = [["task", "metric", "value", "better is"]]
    if row:
        table[0].append(row.source)
    for task in order:
        metric, value = values[task]
        cells = [task, f"{_name(metric)} [{metric.unit}]", f"{value:.4g}"]
        cells.append("higher" if metric.higher_is_better else "lower")
        if row:
            theirs = row.values.get(task)
            same = theirs is not None and theirs[0] == metric.name
            cells.append(str(theirs[1]) if same else "other metric" if theirs else "-")
        table.append(cells)
    title = f"{loaded.path.name}, {len(samples)} images of {source.title}"
    output.table(title, table[0], table[1:])
    result: dict[str, Any] = {
        "checkpoint": loaded.path,
        "data": data,
        "images": len(samples),
        "scores": {task: value for task, (_, value) in values.items()},
        "metrics": {task: _name(metric) for task, (metric, _) in values.items()},
    }
    if row:
        result["published"] = {"source": row.source, "values": row.values}
    tables = [(title, table)]
    if baselines:
        found = _baselines(output, baselines, source, samples, order, ods, cache)
        gains = delta_m(
            {task: value for task, (_, value) in values.items()},
            found,
            {task: metric.name for task, (metric, _) in values.items()},
        )
        rows = [["task", "sign", "value", "baseline", "gain", "baseline is"]]
        rows += [
            [g.task, f"{g.sign:+d}", f"{g.value:.4g}", f"{g.baseline:.4g}", f"{g.gain:+.2f} %"]
            + [g.source]
            for g in gains.tasks
        ]
        title = f"delta_m = {gains.delta_m:+.2f} % (mean gain over single-task networks)"
        output.table(title, rows[0][:-1], [row[:-1] for row in rows[1:]])
        for gain in gains.tasks:
            output.say(f"baseline of {gain.task}: {gain.source}")
        tables.append((title, rows))
        result["delta_m"] = gains
    if out:
        text = "\n\n".join(_markdown(title, rows) for title, rows in tables) + "\n"
        write_file(out, text.encode(), force=force)
        output.say(f"table: {out}")
    output.result(result)


def _score(
    output: Output,
    loaded: Checkpoint,
    source: DataSet,
    samples: Sequence[Sample],
    order: Sequence[str],
    ods: bool,
    cache: Path | None,
) -> dict[str, tuple[Metric, float]]:
    from degmix_training.evaluate import network_predictor, score

    from degmix_edge import metrics
    from degmix_edge.metrics import miou, ods_f

    specs = {task: loaded.tasks[task] for task in order if task in source.classes}
    scorers: dict[str, Metric] = {}
    for task, spec in specs.items():
        if spec.metric == "edge_f" and ods:
            scorers[task] = ods_f.Metric(tolerance=source.edge_tolerance, cache=cache)
        elif spec.metric == "miou" and source.name in ("nyud", "pascal_context"):
            scorers[task] = miou.Metric(spec.num_channels, absent="zero")
        else:
            scorers[task] = metrics.find(spec.metric)(spec.num_channels)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predict = network_predictor(loaded.network.to(device), specs, loaded.card.config, device)
    with output.progress(f"eval {loaded.path.name}", len(samples)) as advance:
        values = score(predict, samples, specs, scorers=scorers, advance=advance)
    return {task: (scorers[task], value) for task, value in values.items()}


def _baselines(
    output: Output,
    names: Sequence[str],
    source: DataSet,
    samples: Sequence[Sample],
    order: Sequence[str],
    ods: bool,
    cache: Path | None,
) -> dict[str, tuple[float, str]]:
    """Scores of single-task networks on the same images, each with where it comes from."""
    from degmix_edge.cli._sources import checkpoint as load

    found: dict[str, tuple[float, str]] = {}
    for name in names:
        loaded = load(name)
        tasks = [task for task in order if task in loaded.tasks]
        for task, (_, value) in _score(output, loaded, source, samples, tasks, ods, cache).items():
            text = f"{loaded.path} ({loaded.card.model} {_backbone(loaded)})"
            found[task] = (value, text)
    return found


def _backbone(loaded: Checkpoint) -> str:
    return str(loaded.card.config.network.get("backbone", ""))


def _name(metric: Metric) -> str:
    """The metric with its convention, where there are two."""
    absent = getattr(metric, "absent", "skip")
    return metric.name if absent == "skip" else f"{metric.name}, absent classes {absent}"


def _markdown(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{title}\n", lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
