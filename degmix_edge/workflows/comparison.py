"""How an engine is held to PyTorch: tensors through polygraphy, maps by each task's own metric.

A softmax or an argmax hides damage that the logits show, and the mean over tasks hides a broken
one: so logits are compared too, and the worst task decides.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromBytes
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from degmix_edge import metrics as all_metrics
from degmix_edge.backends import Backend
from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.manifest import MODEL
from degmix_edge.errors import AccuracyError, ConfigError
from degmix_edge.graph.self_contained import check_self_contained
from degmix_edge.metrics import Metric, relative_drop
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime import Maps, Session, TaskMap
from degmix_edge.runtime.frames import Frame
from degmix_edge.tasks import TaskSpec, logits_name
from degmix_edge.tensors import fill

See = Callable[[Frame, Maps, Maps, Mapping[str, np.ndarray]], None]
LOGITS_TOLERANCE = 1e-4
"""Largest difference of FP32 logits, as a fraction of the largest logit."""
LABELS_TOLERANCE = 1e-3
"""Share of pixels whose class may differ in FP32."""


class BackendRunner(BaseRunner):  # type: ignore[misc]
    """A polygraphy runner over a backend of ours, so that `polygraphy` code can compare with it."""

    def __init__(self, backend: Backend, name: str | None = None) -> None:
        super().__init__(name=name or backend.name, prefix="degmix")
        self.backend = backend

    def get_input_metadata_impl(self) -> TensorMetadata:
        """The image, and what the network takes beside it."""
        metadata = TensorMetadata()
        for spec in self.backend.spec.input_specs:
            metadata.add(spec.name, np.dtype(spec.dtype), list(spec.shape))
        return metadata

    def activate_impl(self) -> None:
        """Activate the backend, unless somebody else has."""
        self.owner = not self.backend.active
        self.backend.__enter__()

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        """Maps, and logits where the backend gives them."""
        start = time.perf_counter()
        maps = OrderedDict(self.backend.infer(feed_dict))
        self.inference_time = time.perf_counter() - start
        return maps

    def deactivate_impl(self) -> None:
        """Deactivate what this runner activated."""
        if self.owner:
            self.backend.__exit__(None, None, None)


@dataclass(frozen=True)
class TensorDifference:
    """One tensor over all images, model.onnx against PyTorch.

    Attributes:
        relative: Largest difference as a fraction of the largest reference magnitude.
        mean: Mean difference as a fraction of the same.
        equal: Share of equal elements, for classes; None for floats.
    """

    name: str
    relative: float
    mean: float
    equal: float | None


@dataclass(frozen=True)
class TaskResult:
    """One task, engine against PyTorch.

    Attributes:
        agreement: The task's metric with PyTorch's map as the target.
        disagreement: The same as a fraction: 0 is equal.
        reference, value: The metric against labels, of PyTorch and of the engine; None without
            labels.
        drop: How much worse the engine is, as a fraction of PyTorch's value; None without labels.
    """

    task: str
    metric: str
    unit: str
    agreement: float
    disagreement: float
    reference: float | None
    value: float | None
    drop: float | None


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared, and whether the worst task is inside the tolerance.

    Attributes:
        images: How many images were compared.
        tensors: Logits and maps of model.onnx against PyTorch, over a few images.
        tasks: By task name, the engine's maps against PyTorch's and against labels.
        worst: The task that lost most.
        passed: Whether every task is inside its tolerance.
        verdict: The same in words: what is out of tolerance, or which task is the worst.
        precision: Of the bundle; empty where there is none.
        against: What the engine was compared with: `PyTorch`, or `ONNX` for a network's own file.
    """

    images: int
    tensors: tuple[TensorDifference, ...]
    tasks: dict[str, TaskResult]
    worst: str
    passed: bool
    verdict: str
    precision: str = ""
    against: str = "PyTorch"

    def values(self) -> dict[str, Any]:
        """The comparison as plain values, tasks as a list."""
        values = asdict(self)
        values.pop("precision")
        if self.against == "PyTorch":  # as it always was
            values.pop("against")
        return {**values, "tasks": [asdict(task) for task in self.tasks.values()]}


def check_all(compared: Mapping[str, Comparison]) -> None:
    """Fail where an engine is out of tolerance.

    Raises:
        AccuracyError: Names each engine and what is out of tolerance.
    """
    failed = {name: c.verdict for name, c in compared.items() if not c.passed}
    if failed:
        raise AccuracyError("; ".join(f"{name}: {verdict}" for name, verdict in failed.items()))


class Runs(Protocol):
    """What is compared with PyTorch: a session, or maps that a robot recorded."""

    bundle: Bundle | None

    @property
    def spec(self) -> NetworkSpec:
        """The spec of the network that runs."""

    def __call__(self, image: Frame) -> Maps:
        """Maps of one image."""


def tensor_differences(
    bundle: Bundle, reference: Backend, feeds: Sequence[Mapping[str, np.ndarray]]
) -> tuple[TensorDifference, ...]:
    """Logits and maps of model.onnx (polygraphy's ONNX Runtime runner) against the reference.

    Args:
        bundle: Its model.onnx runs with every task's logits as outputs too.
        reference: PyTorch, or the network's own ONNX, with `raw_logits`.
        feeds: What `Backend.infer` takes of each image.
    """
    spec = bundle.manifest.network
    names = [name for t in spec.tasks for name in (*([logits_name(t.name)] * t.has_logits), t.name)]
    data = bundle.onnx()
    check_self_contained(data, f"{bundle.path}/{MODEL}")
    model = ModifyOutputs(OnnxFromBytes(data), outputs=names)
    whole = [{name: fill(array, spec.batch) for name, array in f.items()} for f in feeds]
    with G_LOGGER.verbosity(G_LOGGER.ERROR):
        runners = [
            BackendRunner(reference, "reference"),
            OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(model), providers=["cpu"]), "onnx"),
        ]
        results = Comparator.run(runners, data_loader=whole)
    pairs = list(zip(results["reference"], results["onnx"], strict=True))
    return tuple(_difference(name, [(a[name], b[name]) for a, b in pairs]) for name in names)


def _difference(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> TensorDifference:
    first = pairs[0][0]
    equal = None
    if first.dtype.kind != "f":
        equal = float(np.mean([np.mean(a == b) for a, b in pairs]))
    largest = max(float(np.abs(a.astype(np.float64)).max()) for a, _ in pairs) or 1.0
    gaps = [np.abs(a.astype(np.float64) - b) for a, b in pairs]
    return TensorDifference(
        name,
        relative=max(float(gap.max()) for gap in gaps) / largest,
        mean=float(np.mean([gap.mean() for gap in gaps])) / largest,
        equal=equal,
    )


def compare_sessions(
    session: Runs,
    reference: Session,
    samples: Iterable[tuple[Frame, Mapping[str, np.ndarray]]],
    tensors: tuple[TensorDifference, ...] = (),
    *,
    metrics: Mapping[str, type[Metric]] | None = None,
    max_drop: float = 0.02,
    max_disagreement: float = 0.10,
    see: See | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Comparison:
    """Score the engine against the reference and, where there are labels, both against them.

    Args:
        session: The engine.
        reference: PyTorch FP32, or the network's own ONNX.
        samples: Image and labels by task, of one size; labels may be empty.
        metrics: By task, metrics in place of the tasks' own.
        tensors: What `tensor_differences` gave. An FP32 bundle must also keep within its
            tolerances, unless the reference itself rounds to a narrower type.
        max_drop: With labels, how much worse a task may be, as a fraction of PyTorch's value.
        max_disagreement: Without labels, how much a task's map may differ.
        see: Called with each image, the maps of reference and engine, and the labels.
        advance: Called with 1 after each image.
    """
    for name, limit in (("max_drop", max_drop), ("max_disagreement", max_disagreement)):
        if not limit >= 0:  # NaN is not
            raise ConfigError(f"compare: {name} {limit}, expected a fraction of at least 0")
    own = metrics or {}
    scores = {t.name: _Scores(t, own.get(t.name)) for t in session.spec.tasks}
    count = 0
    for image, labels in samples:
        want, got = reference(image), session(image)
        for name, score in scores.items():
            score.update(want[name], got[name], labels.get(name))
        if see is not None:
            see(image, want, got, labels)
        count += 1
        advance(1)
    tasks = {name: score.result() for name, score in scores.items()}
    against = reference.backend.title or reference.backend.name
    exceeded = [
        problem
        for t in tasks.values()
        for problem in _task_problem(t, against, max_drop, max_disagreement)
    ]
    precision = "" if session.bundle is None else session.bundle.manifest.precision
    if precision == "fp32" and not reference.backend.rounds:
        exceeded += [problem for t in tensors for problem in _fp32_problems(t)]
    worst = max(tasks.values(), key=lambda t: _badness(t) if _badness(t) == _badness(t) else np.inf)
    verdict = "; ".join(exceeded) or f"every task is inside its tolerance; worst: {worst.task}"
    return Comparison(count, tensors, tasks, worst.task, not exceeded, verdict, precision, against)


def _badness(result: TaskResult) -> float:
    return result.disagreement if result.drop is None else result.drop


def _task_problem(
    result: TaskResult, against: str, max_drop: float, max_disagreement: float
) -> list[str]:
    """What is out of tolerance; a NaN is."""
    allowed = max_disagreement if result.drop is None else max_drop
    if _badness(result) <= allowed:
        return []
    how = "differs from" if result.drop is None else "is worse than"
    share = f"{100 * _badness(result):.1f} % (allowed {100 * allowed:g} %)"
    return [f"{result.task} {how} {against} by {share}"]


def _fp32_problems(tensor: TensorDifference) -> list[str]:
    if tensor.equal is not None:
        if 1 - tensor.equal > LABELS_TOLERANCE:
            return [f"{tensor.name}: only {100 * tensor.equal:.2f} % equal classes"]
    elif tensor.relative > LOGITS_TOLERANCE and tensor.name.endswith(logits_name("")):
        return [f"{tensor.name}: relative difference {tensor.relative:.1e} > {LOGITS_TOLERANCE:g}"]
    return []


class _Scores:
    """Three metrics of one task: engine on PyTorch, PyTorch on labels, engine on labels."""

    def __init__(self, task: TaskSpec, kind: type[Metric] | None) -> None:
        self.task, self.kind = task, kind or all_metrics.find(task.metric)
        self.agreement, self.reference, self.value = (
            self.kind(task.num_channels) for _ in range(3)
        )
        self.labelled, self.extents = False, []  # type: tuple[bool, list[float]]

    def update(self, want: TaskMap, got: TaskMap, label: np.ndarray | None) -> None:
        """One image; its label is met on the image's own pixels that the network saw."""
        self.agreement.update(np.asarray(got), np.asarray(want))
        self.extents.append(float(np.mean(np.abs(want))))
        if label is not None:
            self.labelled = True
            seen = want.placement.seen
            self.reference.update(seen(want.at_image_size()), seen(label))
            self.value.update(seen(got.at_image_size()), seen(label))

    def result(self) -> TaskResult:
        """The result over all images so far."""
        agreement = self.agreement.compute()
        reference = self.reference.compute() if self.labelled else None
        value = self.value.compute() if self.labelled else None
        drop = None
        if reference is not None and value is not None:
            drop = relative_drop(self.kind, reference, value)
        return TaskResult(
            self.task.name,
            self.kind.name,
            self.kind.unit or self.task.unit,
            agreement,
            self._fraction(agreement),
            reference,
            value,
            drop,
        )

    def _fraction(self, agreement: float) -> float:
        """Disagreement as a fraction: of 100 %, of `Metric.whole`, of the mean magnitude."""
        if self.kind.higher_is_better:
            return 1 - agreement / 100
        whole = self.kind.whole or float(np.mean(self.extents))
        return agreement / whole if whole else float(agreement > 0)


def tensor_table(comparison: Comparison) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows: tensors of model.onnx against PyTorch."""
    rows = [
        [t.name, f"{t.relative:.1e}", f"{t.mean:.1e}", _share(t.equal)] for t in comparison.tensors
    ]
    columns = ["tensor", "max, relative", "mean, relative", "equal classes"]
    title = f"model.onnx ({comparison.precision}) against {comparison.against}, tensors"
    return title, columns, rows


def task_table(
    compared: Mapping[str, Comparison], data: str
) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows: every engine beside PyTorch, task by task."""
    first = next(iter(compared.values()))
    columns = ["task", "metric", first.against]
    for name in compared:
        columns += [name, "worse by", f"on {first.against}"]
    rows = []
    for task in first.tasks.values():
        row = [task.task, f"{task.metric} [{task.unit}]", _number(task.reference)]
        for comparison in compared.values():
            t = comparison.tasks[task.task]
            drop = "-" if t.drop is None else f"{100 * t.drop:+.2f} %"
            row += [_number(t.value), drop, _number(t.agreement)]
        rows.append(row)
    title = (
        f"engines ({first.precision}) against {first.against} and labels, {first.images} images of "
        f"{data}"
    )
    return title, columns, rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f} %"
