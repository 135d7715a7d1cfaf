"""Try a recipe: run the quantized graph over examples and measure what each task lost.

Each task has two numbers. `distance` is how far the maps are from the float network's maps, by the
task's metric. It is 0 for an equal network and shows small changes clearly. `loss` is how much
worse the metric against labels became. This is what matters to a user, but small values are noisy.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from degmix_edge import metrics
from degmix_edge.backends import find
from degmix_edge.cluster import cluster, own_error
from degmix_edge.errors import BackendError
from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.network import IMAGE, METADATA_KEY, NetworkSpec
from degmix_edge.passes import pipeline
from degmix_edge.passes._base import apply
from degmix_edge.preprocess import Fit, Placement
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.runtime import Maps as TaskMaps
from degmix_edge.runtime.frames import Frame, fit_frame
from degmix_edge.tasks import TaskSpec, false_colour

Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """What a backend takes of one frame, and the labels of its picture area."""

    name: str
    feed: Mapping[str, np.ndarray]
    placement: Placement
    labels: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls,
        name: str,
        frame: Frame,
        labels: Mapping[str, np.ndarray],
        fit: Fit,
        spec: NetworkSpec,
    ) -> Example:
        """Fit a frame of any size to the network; each pixel gets the nearest label."""
        feed, placed = fit_frame(frame, fit, spec)
        fitted = {}
        for task, label in labels.items():
            seen = placed.seen(label)
            whole = Placement(0, 0, *seen.shape[:2], placed.height, placed.width)
            fitted[task] = whole.to_image_size(seen, labels=True)
        return cls(name, feed, placed, fitted)

    @property
    def pixels(self) -> np.ndarray:
        """The image at the network's size, uint8 `(H, W, 3)`; depth as a picture of it."""
        first: np.ndarray = self.feed[IMAGE][0]
        return first if first.dtype == np.uint8 else false_colour(np.moveaxis(first, 0, -1))


@dataclass(frozen=True)
class Damage:
    """The accuracy that one task lost, in its metric's unit; `loss` is None without labels."""

    distance: float
    loss: float | None

    @property
    def cost(self) -> float:
        """The number that a budget limits: the loss if there are labels, else the distance."""
        return self.distance if self.loss is None else self.loss


@dataclass
class Trials:
    """Tries recipes of one float graph on one set of examples.

    Args:
        model: The deployed float graph.
        spec: Its tasks.
        ranges: The ranges of its tensors; None tries float recipes alone.
        examples: The examples on which every recipe is tried.
        lowered: Whether to run the engine of `backend`, instead of the graph that other builders
            get. Use it if this backend is the target.
        backend: A backend of CPUs.
        threads: Number of threads of one trial; None leaves it to the backend.
        reference: The float network's maps of each example; computed if empty.
    """

    model: onnx.ModelProto
    spec: NetworkSpec
    ranges: Ranges | None
    examples: Sequence[Example]
    lowered: bool = False
    backend: str = "onnxruntime"
    threads: int | None = None
    reference: list[Maps] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run the float network once."""
        if not self.reference:
            self.reference = self.maps(Recipe(precision="fp32"))

    def engine(self, recipe: Recipe) -> bytes:
        """Return the engine for `recipe`, or the bytes of its graph where that is run."""
        graph = to_graph(self.model)
        apply(graph, pipeline.quantize(recipe, self.ranges))
        model: bytes = to_model(
            graph, {METADATA_KEY: self.spec.model_dump_json()}
        ).SerializeToString()
        if self.lowered:
            backend: Any = find(self.backend)
            model = backend.build(model, recipe, self.ranges)[backend.engine_file]
        return model

    def maps(self, recipe: Recipe) -> list[Maps]:
        """Return every example's maps under `recipe`, cropped to the picture."""
        return self._maps(self.engine(recipe))

    def _maps(self, engine: bytes) -> list[Maps]:
        backend: Any = find(self.backend if self.lowered else "onnxruntime")
        with backend(self.spec, engine, threads=self.threads) as running:
            return [self.cut(e, running.infer(e.feed)) for e in self.examples]

    def cut(self, example: Example, maps: Maps) -> Maps:
        """Return the maps of an example without what lies around its picture."""
        cut = TaskMaps.of(maps, self.spec.tasks, example.placement)
        return {name: np.array(array) for name, array in cut.items()}

    def score(self, recipe: Recipe) -> dict[str, Damage]:
        """Run `recipe` and return what each task loses.

        Raises:
            BackendError: The backend cannot build the engine.
        """
        return self.damage(self.maps(recipe))

    def score_layer(self, recipe: Recipe) -> dict[str, Damage]:
        """Return what each task loses by a recipe in which one layer alone is lower.

        A backend may be unable to build that, although it builds the layer among others: OpenVINO
        cannot build some products in bfloat16 between FP32 ones. ONNX Runtime then runs the graph,
        which rounds the same numbers.
        """
        try:
            engine = self.engine(recipe)
        except BackendError:
            return replace(self, lowered=False).score(recipe)
        return self.damage(self._maps(engine))

    def damage(self, maps: Sequence[Maps]) -> dict[str, Damage]:
        """Return what each task lost, given the maps of every example."""
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
        """Return the float network's metric, of which a relative budget is a percentage.

        Without labels a typical value takes its place: 100 % for a metric where higher is better,
        `Metric.whole`, as 90 degrees for normals, and else the mean magnitude of the float maps.
        """
        labels = [e.labels.get(task.name) for e in self.examples]
        floats = [m[task.name] for m in self.reference]
        if any(label is not None for label in labels):
            return _metric(task, floats, labels)
        metric = metrics.find(task.metric)
        if metric.higher_is_better:
            return 100.0
        return metric.whole or float(np.mean([np.abs(m).mean() for m in floats]))


def _metric(
    task: TaskSpec, maps: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]
) -> float:
    metric = metrics.find(task.metric)(task.num_channels)
    for prediction, target in zip(maps, targets, strict=True):
        if target is not None:
            metric.update(prediction, target)
    return metric.compute()


def _finite(value: float) -> float:
    """Replace NaN by infinity, because a metric without a value is the worst result."""
    return value if np.isfinite(value) else float("inf")


@contextmanager
def pool(
    trials: Trials, workers: int, address: str | None = None
) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a function `each(recipes)` that scores recipes of one layer in `workers` processes.

    It yields `(index, damage)` as trials finish. A single worker is this process. An interrupt
    leaves no process behind.

    Args:
        trials: What is tried.
        workers: Number of processes, or of actors of a cluster.
        address: A Ray cluster, as `cluster.cluster` takes it; None uses processes.

    Raises:
        ConfigError: Nothing answers at the address.
    """
    if address is not None:
        with cluster(address, workers) as ray:
            yield partial(_each_on_ray, ray, trials, workers)
        return
    if workers <= 1:
        yield lambda recipes: ((i, trials.score_layer(r)) for i, r in enumerate(recipes))
        return
    descriptor, name = tempfile.mkstemp(suffix=".trials")
    # A file is written once, while a pipe would carry the graph once for each worker.
    with os.fdopen(descriptor, "wb") as file:
        file.write(_packed(trials))
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


def _each_on_ray(
    ray: Any, trials: Trials, workers: int, recipes: Sequence[Recipe]
) -> Iterator[tuple[int, dict[str, Damage]]]:
    """Score recipes in actors that Ray starts again when they die."""
    packed = ray.put(_packed(trials))
    again = {"max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(num_cpus=1, **again)(_Actor)
    actors = ray.util.ActorPool([actor.remote(packed) for _ in range(min(workers, len(recipes)))])
    try:
        yield from actors.map_unordered(
            lambda one, call: one.score.remote(*call), enumerate(recipes)
        )
    except Exception as error:  # Ray wraps what an actor raises in classes of its own
        raise own_error(error) from error


class _Actor:
    """Trials in a process of a cluster."""

    def __init__(self, packed: bytes) -> None:
        self.trials = _unpacked(packed)

    def score(self, index: int, recipe: Recipe) -> tuple[int, dict[str, Damage]]:
        """Return the index, and what each task loses."""
        return index, self.trials.score_layer(recipe)


def _packed(trials: Trials) -> bytes:
    """Trials for another process, which runs one thread."""
    parts = {**trials.__dict__, "model": trials.model.SerializeToString(), "threads": 1}
    return pickle.dumps(parts)


def _unpacked(packed: bytes) -> Trials:
    parts = pickle.loads(packed)  # `_packed` made these bytes a moment ago
    parts["model"] = onnx.load_from_string(parts["model"])
    return Trials(**parts)


_TRIALS: list[Trials] = []
"""The trials of this worker process; empty elsewhere."""


def _start(name: str) -> None:
    _TRIALS[:] = [_unpacked(Path(name).read_bytes())]


def _try(recipe: Recipe) -> dict[str, Damage]:
    return _TRIALS[0].score_layer(recipe)
