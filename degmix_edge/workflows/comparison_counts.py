"""What a comparison counts of each image, so that other processes can count parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from degmix_edge import metrics as all_metrics
from degmix_edge.bundle.contents import Bundle
from degmix_edge.metrics import Metric, Tally, interval, relative_drop
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import read_image
from degmix_edge.runtime import Maps, Session, TaskMap
from degmix_edge.runtime.frames import Frame, image_of
from degmix_edge.tasks import TaskSpec
from degmix_edge.workflows.sliced import (
    NO_CUT,
    SEED,
    Cut,
    Facts,
    Interval,
    SliceScore,
    facts_of,
    slices_of,
)

See = Callable[[Frame, Maps, Maps, Mapping[str, np.ndarray]], None]


@dataclass(frozen=True)
class TaskResult:
    """One task, engine against PyTorch.

    Attributes:
        agreement: The task's metric with PyTorch's map as the target.
        disagreement: The same as a fraction: 0 is equal.
        reference, value: The metric against labels, of PyTorch and of the engine; None without
            labels.
        drop: How much worse the engine is, as a fraction of PyTorch's value; None without labels.
        interval: Where `drop`, or without labels `disagreement`, lies with a probability of 95 %,
            by bootstrap over images; None where nothing was drawn.
    """

    task: str
    metric: str
    unit: str
    agreement: float
    disagreement: float
    reference: float | None
    value: float | None
    drop: float | None
    interval: Interval | None = None


class Runs(Protocol):
    """What is compared with PyTorch: a session, or maps that a robot recorded."""

    bundle: Bundle | None

    @property
    def spec(self) -> NetworkSpec:
        """The spec of the network that runs."""

    def __call__(self, image: Frame) -> Maps:
        """Maps of one image."""


def badness(result: TaskResult) -> float:
    """Return how much worse a task is; without labels, how much its map differs."""
    return result.disagreement if result.drop is None else result.drop


class Counts:
    """What a comparison has counted of its images: metrics of each task, and their facts.

    Args:
        tasks: The tasks of the network.
        metrics: By task, metrics in place of the tasks' own.
        cut: Parts of the images to score apart, and how many sets are drawn for intervals.
        is_part: The counts are merged with others, so those of each image are kept.

    Attributes:
        images: How many images were counted.
    """

    def __init__(
        self,
        tasks: Iterable[TaskSpec],
        metrics: Mapping[str, type[Metric]] | None = None,
        cut: Cut = NO_CUT,
        *,
        is_part: bool = False,
    ) -> None:
        self.specs, self.cut, self.images = {task.name: task for task in tasks}, cut, 0
        own, keeps = metrics or {}, is_part or cut != NO_CUT
        self._scores = {n: _Scores(task, own.get(n), keeps) for n, task in self.specs.items()}
        self._facts: list[Facts] = []

    def add_all(
        self,
        session: Runs,
        reference: Session,
        samples: Iterable[tuple[Frame, Mapping[str, np.ndarray]]],
        *,
        see: See | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Run images through the engine and the reference, and count them.

        Args:
            session: The engine.
            reference: PyTorch FP32, or the network's own ONNX.
            samples: Image and labels by task, of one size; labels may be empty.
            see: Called with each image, the maps of reference and engine, and the labels.
            advance: Called with 1 after each image.
        """
        for image, labels in samples:
            want, got = reference(image), session(image)
            for name, score in self._scores.items():
                score.update(want[name], got[name], labels.get(name))
            if see is not None:
                see(image, want, got, labels)
            if self.cut.slices:
                name, picture = self.cut.names[self.images], read_image(image_of(image))
                self._facts.append(facts_of(name, picture, labels, self.specs))
            self.images += 1
            advance(1)

    def merge(self, other: Counts) -> None:
        """Append the images that another process has counted; both are parts."""
        self.images += other.images
        self._facts += other._facts
        for name, score in self._scores.items():
            score.merge(other._scores[name])

    def results(self) -> dict[str, TaskResult]:
        """Return what each task gives over all images."""
        return {name: score.result(draws=self.cut.draws) for name, score in self._scores.items()}

    def slices(self) -> Iterator[SliceScore]:
        """Give, by parts of the images, the drop of each task, or its disagreement."""
        for part, rows in slices_of(self._facts, self.cut.slices).items():
            results = {n: score.result(rows, self.cut.draws) for n, score in self._scores.items()}
            intervals = {n: r.interval for n, r in results.items() if r.interval is not None}
            values = {n: badness(r) for n, r in results.items()}
            yield SliceScore(part, len(rows), values, intervals)


class _Scores:
    """Three metrics of one task: engine on PyTorch, PyTorch on labels, engine on labels.

    Args:
        task: The task.
        kind: Its metric, in place of the task's own.
        is_cut: The counts of each image are kept, for parts of them and for intervals.
    """

    def __init__(self, task: TaskSpec, kind: type[Metric] | None, is_cut: bool) -> None:
        self.task, self.kind = task, kind or all_metrics.find(task.metric)
        own = [self.kind(task.num_channels) for _ in range(3)]
        self.agreement, self.reference, self.value = own
        self.tallies = tuple(map(Tally, own)) if is_cut else ()
        self.labelled, self.extents = list[bool](), list[float]()

    def update(self, want: TaskMap, got: TaskMap, label: np.ndarray | None) -> None:
        """One image; its label is met on the image's own pixels that the network saw."""
        self.extents.append(float(np.mean(np.abs(want))))
        self.labelled.append(label is not None)
        self._add(0, np.asarray(got), np.asarray(want))
        seen = want.placement.seen
        target = None if label is None else seen(label)
        for number, one in ((1, want), (2, got)):
            self._add(number, None if label is None else seen(one.at_image_size()), target)

    def merge(self, other: _Scores) -> None:
        """Append the images that another process has counted; both keep those of each image."""
        self.extents += other.extents
        self.labelled += other.labelled
        for tally, more in zip(self.tallies, other.tallies, strict=True):
            tally.merge(more)

    def _add(self, number: int, prediction: np.ndarray | None, target: np.ndarray | None) -> None:
        if self.tallies:
            self.tallies[number].add(prediction, target)
        elif prediction is not None and target is not None:
            (self.agreement, self.reference, self.value)[number].update(prediction, target)

    def result(self, rows: Sequence[int] | None = None, draws: int = 0) -> TaskResult:
        """The result over some images, by position, or over all so far."""
        if self.tallies:
            agreement, reference, value = (tally.value(rows) for tally in self.tallies)
        else:
            own = (self.agreement, self.reference, self.value)
            agreement, reference, value = (metric.compute() for metric in own)
        chosen = range(len(self.extents)) if rows is None else rows
        is_labelled = any(self.labelled[row] for row in chosen)
        extents = [self.extents[row] for row in chosen]
        whole = self.kind.whole or (float(np.mean(extents)) if extents else 0.0)
        span = None
        if draws:
            drawn = [tally.draws(draws, SEED, rows) for tally in self.tallies]
            pairs = zip(drawn[1], drawn[2], strict=True)
            drops = [relative_drop(self.kind, a, b) for a, b in pairs]
            shares = [self._fraction(a, whole) for a in drawn[0]]
            span = interval(np.array(drops if is_labelled else shares))
        return TaskResult(
            self.task.name,
            self.kind.name,
            self.kind.unit or self.task.unit,
            agreement,
            self._fraction(agreement, whole),
            reference if is_labelled else None,
            value if is_labelled else None,
            relative_drop(self.kind, reference, value) if is_labelled else None,
            span,
        )

    def _fraction(self, agreement: float, whole: float) -> float:
        """Disagreement as a fraction: of 100 %, of `Metric.whole`, of the mean magnitude."""
        if self.kind.higher_is_better:
            return 1 - agreement / 100
        return agreement / whole if whole else float(agreement > 0)
