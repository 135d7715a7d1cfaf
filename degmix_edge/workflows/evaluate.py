"""Score a checkpoint in PyTorch by the papers' metrics, beside the authors' own figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.progress import Progress, counting, listening
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.workflows.evaluate_parts import Part, predictor_of, score_parts
from degmix_edge.workflows.networks import read_checkpoint
from degmix_edge.workflows.sliced import SliceScore, parse_slices
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
        calibration: The expected calibration error in percent; None where a task has no classes.
    """

    value: float
    metric: str
    name: str
    unit: str
    higher_is_better: bool
    calibration: float | None = None

    @classmethod
    def of(cls, metric: Metric, value: float, calibration: float | None = None) -> Score:
        """The score of a metric that has seen every image."""
        absent = getattr(metric, "absent", "skip")
        words = metric.name if absent == "skip" else f"{metric.name}, absent classes {absent}"
        kind = (words, metric.name, metric.unit, metric.higher_is_better)
        return cls(value, *kind, calibration)


@dataclass(frozen=True)
class Evaluation(Readable):
    """What a checkpoint scores.

    Attributes:
        checkpoint: Its path.
        data: The data set's title.
        images: How many images were scored.
        scores: By task, in the papers' order.
        published: The authors' own row, where there is one.
        delta_m: Mean gain over single-task networks, where some were given.
        slices: Scores of parts of the data, and their intervals; empty where none were asked for.
    """

    checkpoint: Path
    data: str
    images: int
    scores: dict[str, Score]
    published: Published | None
    delta_m: DeltaM | None
    slices: tuple[SliceScore, ...] = ()

    @property
    def calibration(self) -> dict[str, float]:
        """The expected calibration error in percent, by task with classes."""
        errors = {task: score.calibration for task, score in self.scores.items()}
        return {task: error for task, error in errors.items() if error is not None}

    def tables(self) -> list[Table]:
        """The scores, and the gains over the baselines, as people read them."""
        rows = [["task", "metric", "value", "better is", "ece [%]"]]
        if self.published:
            rows[0].append(self.published.source)
        for task, score in self.scores.items():
            cells = [task, f"{score.metric} [{score.unit}]", f"{score.value:.4g}"]
            cells.append("higher" if score.higher_is_better else "lower")
            cells.append("-" if score.calibration is None else f"{score.calibration:.2f}")
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
        if self.slices:
            tables.append(("slices, with 95 % intervals by bootstrap over images", self._sliced()))
        return tables

    def text(self) -> Iterator[str | TextTable]:
        """Yield the tables; where a baseline comes from is a line of its own."""
        for number, (title, rows) in enumerate(self.tables()):
            gains = number == 1 and self.delta_m is not None
            shown = [row[:-1] for row in rows] if gains else rows
            yield TextTable(title, shown[0], shown[1:])
        for gain in self.delta_m.tasks if self.delta_m else ():
            yield f"baseline of {gain.task}: {gain.source}"

    def _sliced(self) -> list[list[str]]:
        rows = [["slice", "images", *self.scores]]
        for part in self.slices:
            cells = [part.slice, str(part.images)]
            for task in self.scores:
                cells.append(f"{part.values[task]:.4g}")
                if task in part.intervals:
                    low, high = part.intervals[task]
                    cells[-1] += f" ({low:.4g} to {high:.4g})"
            rows.append(cells)
        return rows

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
            "calibration": self.calibration,
        }
        if self.published:
            row = self.published
            values["published"] = {"source": row.source, "values": row.values}
        if self.delta_m is not None:
            values["delta_m"] = self.delta_m
        if self.slices:
            values["slices"] = self.slices
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
    ods_compat: bool = False,
    cache: Path | None = None,
    slices: str | Sequence[str] = (),
    bootstrap: int = 0,
    workers: int = 1,
    address: str | None = None,
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
        ods_compat: The same, with the smoothing before the suppression that pyEdgeEval has.
        cache: A folder that makes odsF resumable.
        slices: Parts to score apart: names out of `sliced.SLICES`, or one text with commas.
        bootstrap: Sets of images that are drawn for the intervals of 95 %; 0 gives none.
        workers: Processes that score, each of which reads the checkpoint's file; the result is that
            of one.
        address: A Ray cluster that scores, as `label` takes it.
        progress: Called with an `Event` as images are scored.

    Raises:
        CheckpointError: A checkpoint cannot be read.
        ConfigError: Classes of network and data set differ, or delta_m cannot be formed.
        InputError: The data cannot be read.
    """
    loaded, kinds = read_checkpoint(checkpoint), parse_slices(slices)
    boundaries = {"ods": ods or ods_compat, "smooth": ods_compat, "cache": cache}
    part = Part(str(loaded.path), data, split, count, label_map, boundaries)
    more: dict[str, Any] = {
        "kinds": kinds,
        "bootstrap": bootstrap,
        "workers": workers,
        "address": address,
    }
    with listening(progress):
        return _evaluated(loaded, part, baselines, **more)


def _evaluated(
    loaded: Checkpoint,
    part: Part,
    baselines: Sequence[str | Path | Checkpoint],
    *,
    kinds: Sequence[str],
    bootstrap: int,
    workers: int,
    address: str | None,
) -> Evaluation:
    from degmix_training import published

    size = (loaded.card.height, loaded.card.width)
    source, samples = labelled_samples(
        part.data, size, loaded.tasks, part.split, part.count, label_map=part.label_map
    )
    known = published.columns(source.name)
    order = [t for t in known if t in loaded.tasks] + [t for t in loaded.tasks if t not in known]
    slices: list[SliceScore] = []
    if kinds or bootstrap or workers != 1 or address is not None:
        tasks = [task for task in order if task in source.classes]
        tallies = score_parts(part, len(samples), tasks, workers, address)
        errors = {task: tally.value() for task, tally in tallies.calibration.items()}
        scores = {
            task: Score.of(one.metric, one.value(), errors.get(task))
            for task, one in tallies.tasks.items()
        }
        slices = tallies.scores(kinds, bootstrap) if kinds or bootstrap else []
    else:
        scores = _scores(loaded, source, samples, order, part)
    found: dict[str, tuple[float, str]] = {}
    for one in map(read_checkpoint, baselines):
        theirs = _scores(one, source, samples, [t for t in order if t in one.tasks], part)
        text = f"{one.path} ({one.card.model} {_backbone(one)})"
        found |= {task: (score.value, text) for task, score in theirs.items()}
    gains = _gains(scores, found) if baselines else None
    row = published.find(source.name, loaded.card.model, _backbone(loaded))
    images = len(samples)
    return Evaluation(loaded.path, source.title, images, scores, row, gains, tuple(slices))


def _gains(scores: Mapping[str, Score], baselines: Mapping[str, tuple[float, str]]) -> DeltaM:
    from degmix_training.delta_m import delta_m

    return delta_m(
        {task: score.value for task, score in scores.items()},
        dict(baselines),
        {task: score.name for task, score in scores.items()},
    )


def _scores(
    loaded: Checkpoint,
    source: DataSet,
    samples: Samples,
    order: Sequence[str],
    part: Part,
) -> dict[str, Score]:
    from degmix_training.evaluate import calibrators, score, scorers

    specs = {task: loaded.tasks[task] for task in order if task in source.classes}
    metrics = scorers(source, specs, **part.boundaries)
    predict, errors = predictor_of(loaded, specs), calibrators(specs)
    with counting(f"eval {loaded.path.name}", len(samples)) as advance:
        values = score(
            predict, samples, specs, scorers=metrics, calibration=errors, advance=advance
        )
    return {
        task: Score.of(metrics[task], value, errors[task].compute() if task in errors else None)
        for task, value in values.items()
    }


def _backbone(loaded: Checkpoint) -> str:
    return str(loaded.card.config.network.get("backbone", ""))


def _markdown(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{title}\n", lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
