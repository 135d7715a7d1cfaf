"""Score a checkpoint in PyTorch by the papers' metrics, beside the authors' own figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.progress import Progress, counting, listening
from degmix_edge.workflows.networks import read_checkpoint
from degmix_edge.workflows.sources import samples as labelled_samples

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint
    from degmix_training.data import DataSet, Samples
    from degmix_training.delta_m import DeltaM
    from degmix_training.published import Published

    from degmix_edge.metrics import Metric

DATA = "synthetic:64"
Table = tuple[str, list[list[str]]]
"""A title and rows; the first row names the columns."""


@dataclass(frozen=True)
class Score:
    """One task's score.

    Attributes:
        value: The metric over all images, in its unit.
        metric: Its name and, where there are two, its convention.
        name: Its name alone.
        unit: Its unit.
        higher_is_better: Its direction.
    """

    value: float
    metric: str
    name: str
    unit: str
    higher_is_better: bool

    @classmethod
    def of(cls, metric: Metric, value: float) -> Score:
        """The score of a metric that has seen every image."""
        absent = getattr(metric, "absent", "skip")
        words = metric.name if absent == "skip" else f"{metric.name}, absent classes {absent}"
        return cls(value, words, metric.name, metric.unit, metric.higher_is_better)


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint scores.

    Attributes:
        checkpoint: Its path.
        data: The data set's title.
        images: How many images were scored.
        scores: By task, in the papers' order.
        published: The authors' own row, where there is one.
        delta_m: Mean gain over single-task networks, where some were given.
    """

    checkpoint: Path
    data: str
    images: int
    scores: dict[str, Score]
    published: Published | None
    delta_m: DeltaM | None

    def tables(self) -> list[Table]:
        """The scores, and the gains over the baselines, as people read them."""
        rows = [["task", "metric", "value", "better is"]]
        if self.published:
            rows[0].append(self.published.source)
        for task, score in self.scores.items():
            cells = [task, f"{score.metric} [{score.unit}]", f"{score.value:.4g}"]
            cells.append("higher" if score.higher_is_better else "lower")
            if self.published:
                theirs = self.published.values.get(task)
                same = theirs is not None and theirs[0] == score.name
                cells.append(
                    str(theirs[1]) if same and theirs else "other metric" if theirs else "-"
                )
            rows.append(cells)
        tables = [(f"{self.checkpoint.name}, {self.images} images of {self.data}", rows)]
        if self.delta_m is not None:
            gains = [["task", "sign", "value", "baseline", "gain", "baseline is"]]
            gains += [
                [g.task, f"{g.sign:+d}", f"{g.value:.4g}", f"{g.baseline:.4g}", f"{g.gain:+.2f} %"]
                + [g.source]
                for g in self.delta_m.tasks
            ]
            title = f"delta_m = {self.delta_m.delta_m:+.2f} % (mean gain over single-task networks)"
            tables.append((title, gains))
        return tables

    def markdown(self) -> str:
        """The tables as Markdown."""
        return "\n\n".join(_markdown(title, rows) for title, rows in self.tables()) + "\n"

    def values(self) -> dict[str, Any]:
        """The evaluation as plain values."""
        values: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "images": self.images,
            "scores": {task: score.value for task, score in self.scores.items()},
            "metrics": {task: score.metric for task, score in self.scores.items()},
        }
        if self.published:
            row = self.published
            values["published"] = {"source": row.source, "values": row.values}
        if self.delta_m is not None:
            values["delta_m"] = self.delta_m
        return values


def evaluate(
    checkpoint: str | Path | Checkpoint,
    *,
    data: str = DATA,
    split: str | None = None,
    count: int | None = None,
    label_map: str | Path | None = None,
    baselines: Sequence[str | Path | Checkpoint] = (),
    ods: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a checkpoint in PyTorch on labelled images, by the conventions of the data set.

    Args:
        checkpoint: A short name, a path, or a loaded checkpoint.
        data: A labelled data set: `nyud:DIR`, `folder:DIR`, `synthetic:64`.
        split: Its split; None is val, of synthetic scenes test.
        count: Only the first images.
        label_map: A file that says which class each id of the label files of `folder:DIR` is; None
            takes `label_map.yaml` of the folder, if there is one.
        baselines: Single-task checkpoints to measure delta_m against, one for each task.
        ods: Score boundaries by odsF, as the papers do; slow.
        cache: A folder that makes odsF resumable.
        progress: Called with an `Event` as images are scored.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        ConfigError: Classes of network and data set differ, or delta_m cannot be formed.
        InputError: The data cannot be read.
    """
    from degmix_training import published
    from degmix_training.delta_m import delta_m

    loaded = read_checkpoint(checkpoint)
    size = (loaded.card.height, loaded.card.width)
    source, samples = labelled_samples(data, size, loaded.tasks, split, count, label_map=label_map)
    known = published.columns(source.name)
    order = [t for t in known if t in loaded.tasks] + [t for t in loaded.tasks if t not in known]
    gains = None
    with listening(progress):
        scores = _scores(loaded, source, samples, order, ods=ods, cache=cache)
        if baselines:
            found: dict[str, tuple[float, str]] = {}
            for one in map(read_checkpoint, baselines):
                tasks = [task for task in order if task in one.tasks]
                theirs = _scores(one, source, samples, tasks, ods=ods, cache=cache)
                text = f"{one.path} ({one.card.model} {_backbone(one)})"
                found |= {task: (score.value, text) for task, score in theirs.items()}
            gains = delta_m(
                {task: score.value for task, score in scores.items()},
                found,
                {task: score.name for task, score in scores.items()},
            )
    row = published.find(source.name, loaded.card.model, _backbone(loaded))
    return Evaluation(loaded.path, source.title, len(samples), scores, row, gains)


def _scores(
    loaded: Checkpoint,
    source: DataSet,
    samples: Samples,
    order: Sequence[str],
    *,
    ods: bool,
    cache: Path | None,
) -> dict[str, Score]:
    import torch
    from degmix_training.evaluate import network_predictor, score, scorers
    from degmix_training.qat import fake_quantized

    specs = {task: loaded.tasks[task] for task in order if task in source.classes}
    metrics = scorers(source, specs, ods=ods, cache=cache)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = fake_quantized(loaded) if loaded.card.trained else loaded.network
    predict = network_predictor(network.to(device), specs, loaded.card.config, device)
    with counting(f"eval {loaded.path.name}", len(samples)) as advance:
        values = score(predict, samples, specs, scorers=metrics, advance=advance)
    return {task: Score.of(metrics[task], value) for task, value in values.items()}


def _backbone(loaded: Checkpoint) -> str:
    return str(loaded.card.config.network.get("backbone", ""))


def _markdown(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{title}\n", lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
