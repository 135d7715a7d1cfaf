"""Try a recipe: run the quantized graph over examples and say what each task lost.

Two numbers a task. `distance` is how far the maps are from the float network's own, by the task's
metric: it is 0 for an equal network, and small changes do not hide in it. `loss` is how much worse
the metric against labels became: what the user pays, and noisy where it is small.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from degmix_edge import metrics
from degmix_edge.backends import find
from degmix_edge.network import METADATA_KEY, NetworkSpec
from degmix_edge.passes import pipeline
from degmix_edge.passes._base import apply, to_graph, to_model
from degmix_edge.preprocess import Fit, Placement, fit_image
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.tasks import TaskSpec

Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """An image at the network's size, uint8 `(H, W, 3)`, and labels of its picture's part."""

    name: str
    pixels: np.ndarray
    placement: Placement
    labels: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls, name: str, image: np.ndarray, labels: Mapping[str, np.ndarray], fit: Fit
    ) -> Example:
        """Of an image of any size: its labels become the nearest of each pixel."""
        pixels, placed = fit_image(image, fit)
        whole = Placement(0, 0, *image.shape[:2], placed.height, placed.width)
        fitted = {task: whole.to_image_size(v, labels=True) for task, v in labels.items()}
        return cls(name, pixels, placed, fitted)


@dataclass(frozen=True)
class Damage:
    """What one task lost, in its metric's unit; `loss` is None without labels."""

    distance: float
    loss: float | None

    @property
    def cost(self) -> float:
        """What a budget counts: the loss against labels, else the distance."""
        return self.distance if self.loss is None else self.loss


@dataclass
class Trials:
    """Recipes of one float graph over one set of examples.

    Args:
        model: The deployed float graph.
        spec: Its tasks.
        ranges: Of its tensors.
        examples: What every recipe is tried on.
        lowered: Run the form that ONNX Runtime's CPU backend would run, not the graph that other
            builders get: for a target that is this backend.
        threads: Of one trial; None leaves it to the backend.
    """

    model: onnx.ModelProto
    spec: NetworkSpec
    ranges: Ranges
    examples: Sequence[Example]
    lowered: bool = False
    threads: int | None = None
    reference: list[Maps] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run the float network once."""
        if not self.reference:
            self.reference = self.maps(Recipe(precision="fp32"))

    def engine(self, recipe: Recipe) -> bytes:
        """The graph under `recipe`, in the form that is run."""
        graph = to_graph(self.model)
        apply(graph, pipeline.quantize(recipe, self.ranges))
        model: bytes = to_model(
            graph, {METADATA_KEY: self.spec.model_dump_json()}
        ).SerializeToString()
        if self.lowered:
            backend: Any = find("onnxruntime")
            model = backend.build(model, recipe, self.ranges)[backend.engine_file]
        return model

    def maps(self, recipe: Recipe) -> list[Maps]:
        """Every example's maps under `recipe`, cut to the picture."""
        backend: Any = find("onnxruntime")
        with backend(self.spec, self.engine(recipe), threads=self.threads) as running:
            return [self._cut(e, running.infer(e.pixels[None])) for e in self.examples]

    def _cut(self, example: Example, maps: Maps) -> Maps:
        names = self.spec.task_names
        return {name: np.array(example.placement.crop(maps[name][0])) for name in names}

    def score(self, recipe: Recipe) -> dict[str, Damage]:
        """What each task loses under `recipe`."""
        return self.damage(self.maps(recipe))

    def damage(self, maps: Sequence[Maps]) -> dict[str, Damage]:
        """What each task lost, by maps of every example."""
        return {task.name: self._damage(task, maps) for task in self.spec.tasks}

    def _damage(self, task: TaskSpec, maps: Sequence[Maps]) -> Damage:
        name, sign = task.name, 1 if metrics.find(task.metric).higher_is_better else -1
        floats = [m[name] for m in self.reference]
        got = [m[name] for m in maps]
        same, near = _metric(task, floats, floats), _metric(task, got, floats)
        labels = [e.labels.get(name) for e in self.examples]
        loss = None
        if any(label is not None for label in labels):
            before, after = _metric(task, floats, labels), _metric(task, got, labels)
            loss = _finite(sign * (before - after))
        return Damage(_finite(sign * (same - near)), loss)

    def value(self, task: TaskSpec) -> float:
        """The float network's metric against labels; without labels, what a relative budget is of.

        That is 100 % for shares, and else the mean size of the float map.
        """
        labels = [e.labels.get(task.name) for e in self.examples]
        floats = [m[task.name] for m in self.reference]
        if any(label is not None for label in labels):
            return _metric(task, floats, labels)
        if metrics.find(task.metric).higher_is_better:
            return 100.0
        return 90.0 if task.decode == "unit_vector" else float(np.mean([m.mean() for m in floats]))


def _metric(
    task: TaskSpec, maps: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]
) -> float:
    metric = metrics.find(task.metric)(task.num_channels)
    for prediction, target in zip(maps, targets, strict=True):
        if target is not None:
            metric.update(prediction, target)
    return metric.compute()


def _finite(value: float) -> float:
    """A metric that is no number any more is the worst there is."""
    return value if np.isfinite(value) else float("inf")


@contextmanager
def pool(trials: Trials, workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`each(recipes) -> (index, damage)` as they finish, in `workers` processes.

    One worker is this process. Interrupting it leaves no process behind.
    """
    if workers <= 1:
        yield lambda recipes: ((i, trials.score(r)) for i, r in enumerate(recipes))
        return
    handle, name = tempfile.mkstemp(suffix=".trials")
    with os.fdopen(handle, "wb") as file:  # once to disk, not once a worker through a pipe
        parts = {**trials.__dict__, "model": trials.model.SerializeToString()}
        pickle.dump({**parts, "threads": 1}, file)
    executor = ProcessPoolExecutor(workers, get_context("spawn"), _start, (name,))

    def each(recipes: Sequence[Recipe]) -> Iterator[tuple[int, dict[str, Damage]]]:
        futures = {executor.submit(_try, r): i for i, r in enumerate(recipes)}
        for future in as_completed(futures):
            yield futures[future], future.result()

    try:
        yield each
    finally:
        executor.shutdown(cancel_futures=True)
        Path(name).unlink(missing_ok=True)


_TRIALS: list[Trials] = []
"""The worker's own."""


def _start(name: str) -> None:
    parts = pickle.loads(Path(name).read_bytes())  # our own file of a moment ago
    parts["model"] = onnx.load_from_string(parts["model"])
    _TRIALS[:] = [Trials(**parts)]


def _try(recipe: Recipe) -> dict[str, Damage]:
    return _TRIALS[0].score(recipe)
