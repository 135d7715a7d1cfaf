"""How an engine is held to PyTorch: tensors through polygraphy, maps by each task's own metric.

A softmax or an argmax hides damage that the logits show, and the mean over tasks hides a broken
one: so logits are compared too, and the worst task decides.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromBytes
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from degmix_edge.backends import Backend
from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.manifest import MODEL
from degmix_edge.errors import AccuracyError, ConfigError
from degmix_edge.graph.self_contained import check_self_contained
from degmix_edge.metrics import Metric
from degmix_edge.progress import note
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.runtime import Session
from degmix_edge.runtime.frames import Frame
from degmix_edge.tasks import logits_name
from degmix_edge.tensors import fill
from degmix_edge.workflows.comparison_counts import Counts, Runs, See, TaskResult, badness
from degmix_edge.workflows.sliced import (
    NO_CUT,
    Cut,
    SliceScore,
)

LOGITS_TOLERANCE = 1e-4
"""Largest difference of FP32 logits, as a fraction of the largest logit."""
ROUNDING_FACTOR = 4
"""Larger differences are allowed up to this multiple of what float32 costs the reference itself.

Both sides round, each in its own order, so that their errors add up and differ by a small factor.
"""
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
        rounding: Largest difference of the reference from its own computation in float64, as a
            fraction of the same. It is measured of FP32 logits that differ by more than
            `LOGITS_TOLERANCE`, and None elsewhere.
    """

    name: str
    relative: float
    mean: float
    equal: float | None
    rounding: float | None = None

    @property
    def allowed(self) -> float:
        """The largest `relative` that FP32 logits may have."""
        return max(LOGITS_TOLERANCE, ROUNDING_FACTOR * (self.rounding or 0))


@dataclass(frozen=True)
class Comparison(Readable):
    """Everything that was compared, and whether the worst task is inside the tolerance.

    Attributes:
        images: How many images were compared.
        tensors: Logits and maps of model.onnx against PyTorch, over a few images.
        tasks: By task name, the engine's maps against PyTorch's and against labels.
        worst: The task that lost most.
        passed: Whether every task is inside its tolerance.
        verdict: The same in words: what is out of tolerance, or which task is the worst.
        precision: Precision of the bundle; empty where there is none.
        against: What the engine was compared with: `PyTorch`, or `ONNX` for a network's own file.
        slices: By parts of the images, the drop of each task, or its disagreement without labels.
    """

    images: int
    tensors: tuple[TensorDifference, ...]
    tasks: dict[str, TaskResult]
    worst: str
    passed: bool
    verdict: str
    precision: str = ""
    against: str = "PyTorch"
    slices: tuple[SliceScore, ...] = ()

    @property
    def is_cut(self) -> bool:
        """Whether there are slices or intervals."""
        return bool(self.slices) or any(task.interval for task in self.tasks.values())

    def text(self) -> Iterator[str | TextTable]:
        """Yield the differences of tensors and of tasks, and the verdict."""
        return comparison_text({"engine": self})

    def values(self) -> dict[str, Any]:
        """The comparison as plain values, tasks as a list."""
        values = asdict(self)
        values.pop("precision")
        if self.against == "PyTorch":  # as it always was
            values.pop("against")
        if not self.slices:
            values.pop("slices")
        tasks = [asdict(task) for task in self.tasks.values()]
        tensors = [asdict(tensor) for tensor in self.tensors]
        for found, optional in ((tasks, "interval"), (tensors, "rounding")):
            for one in found:
                if one[optional] is None:
                    one.pop(optional)
        return {**values, "tensors": tensors, "tasks": tasks}


def check_all(compared: Mapping[str, Comparison]) -> None:
    """Fail where an engine is out of tolerance.

    Raises:
        AccuracyError: Names each engine and what is out of tolerance.
    """
    failed = {name: c.verdict for name, c in compared.items() if not c.passed}
    if failed:
        raise AccuracyError("; ".join(f"{name}: {verdict}" for name, verdict in failed.items()))


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
    found = [_difference(name, [(a[name], b[name]) for a, b in pairs]) for name in names]
    if bundle.manifest.precision == "fp32":
        loud = [t.name for t in found if _is_logits(t) and t.relative > LOGITS_TOLERANCE]
        rounding = _rounding(reference, whole, results["reference"], loud) if loud else {}
        found = [replace(t, rounding=rounding.get(t.name)) for t in found]
    return tuple(found)


def _rounding(
    reference: Backend,
    feeds: Sequence[Mapping[str, np.ndarray]],
    tensors: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
) -> dict[str, float]:
    """Return how far `tensors` of the reference are from float64, where it has such a form."""
    try:
        exact = reference.in_double()
        if exact is None:
            return {}
        with exact:
            doubles = [exact.infer(feed) for feed in feeds]
    except RuntimeError:  # a module of the user's that casts to float32 inside
        return {}
    pairs = list(zip(doubles, tensors, strict=True))
    found = {n: _difference(n, [(a[n], b[n]) for a, b in pairs]).relative for n in names}
    for name, relative in found.items():
        note(f"{name}: float32 moves the reference itself by {relative:.1e}", "compare")
    return found


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
    cut: Cut = NO_CUT,
    advance: Callable[[int], None] = lambda n: None,
) -> Comparison:
    """Score the engine against the reference and, where there are labels, both against them.

    Args:
        session: The engine.
        reference: PyTorch FP32, or the network's own ONNX.
        samples: As `Counts.add_all` takes them.
        metrics: By task, metrics in place of the tasks' own.
        tensors: As `conclude` takes them.
        max_drop: With labels, how much worse a task may be, as a fraction of PyTorch's value.
        max_disagreement: Without labels, how much a task's map may differ.
        see: Called with each image, the maps of reference and engine, and the labels.
        cut: Parts of the images to score apart, and how many sets are drawn for intervals.
        advance: Called with 1 after each image.
    """
    check_limits(max_drop, max_disagreement)
    counts = Counts(session.spec.tasks, metrics, cut)
    counts.add_all(session, reference, samples, see=see, advance=advance)
    limits = {"max_drop": max_drop, "max_disagreement": max_disagreement}
    return conclude(counts, session, reference, tensors, **limits)


def check_limits(max_drop: float, max_disagreement: float) -> None:
    """Check tolerances before any work.

    Raises:
        ConfigError: One is negative or NaN.
    """
    for name, limit in (("max_drop", max_drop), ("max_disagreement", max_disagreement)):
        if not limit >= 0:  # NaN is not
            raise ConfigError(f"compare: {name} {limit}, expected a fraction of at least 0")


def conclude(
    counts: Counts,
    session: Runs,
    reference: Session,
    tensors: tuple[TensorDifference, ...] = (),
    *,
    max_drop: float,
    max_disagreement: float,
) -> Comparison:
    """Return the comparison that was counted, and whether every task is inside its tolerance.

    Args:
        counts: What was counted, here or in other processes.
        session: The engine.
        reference: What it was compared with.
        tensors: What `tensor_differences` gave. An FP32 bundle must also keep within its
            tolerances, unless the reference itself rounds to a narrower type.
        max_drop: With labels, how much worse a task may be, as a fraction of PyTorch's value.
        max_disagreement: Without labels, how much a task's map may differ.
    """
    tasks = counts.results()
    against = reference.backend.title or reference.backend.name
    exceeded = [
        problem
        for t in tasks.values()
        for problem in _task_problem(t, against, max_drop, max_disagreement)
    ]
    precision = "" if session.bundle is None else session.bundle.manifest.precision
    if precision == "fp32" and not reference.backend.rounds:
        exceeded += [problem for t in tensors for problem in _fp32_problems(t)]
    worst = max(tasks.values(), key=lambda t: badness(t) if badness(t) == badness(t) else np.inf)
    verdict = "; ".join(exceeded) or f"every task is inside its tolerance; worst: {worst.task}"
    slices = tuple(counts.slices())
    words = (worst.task, not exceeded, verdict, precision, against)
    return Comparison(counts.images, tensors, tasks, *words, slices)


def _task_problem(
    result: TaskResult, against: str, max_drop: float, max_disagreement: float
) -> list[str]:
    """What is out of tolerance; a NaN is."""
    allowed = max_disagreement if result.drop is None else max_drop
    if badness(result) <= allowed:
        return []
    how = "differs from" if result.drop is None else "is worse than"
    share = f"{100 * badness(result):.1f} % (allowed {100 * allowed:g} %)"
    return [f"{result.task} {how} {against} by {share}"]


def _fp32_problems(tensor: TensorDifference) -> list[str]:
    if tensor.equal is not None:
        if 1 - tensor.equal > LABELS_TOLERANCE:
            return [f"{tensor.name}: only {100 * tensor.equal:.2f} % equal classes"]
    elif _is_logits(tensor) and not tensor.relative <= tensor.allowed:
        return [f"{tensor.name}: relative difference {tensor.relative:.1e} > {tensor.allowed:.2g}"]
    return []


def _is_logits(tensor: TensorDifference) -> bool:
    return tensor.equal is None and tensor.name.endswith(logits_name(""))


def comparison_text(
    compared: Mapping[str, Comparison], data: str = ""
) -> Iterator[str | TextTable]:
    """Yield how engines of one bundle compare with the reference, on images of `data`."""
    yield tensor_table(next(iter(compared.values())))
    yield task_table(compared, data)
    for name, comparison in compared.items():
        if comparison.is_cut:
            yield slice_table(comparison)
        yield f"{name}: {comparison.verdict}" if len(compared) > 1 else comparison.verdict


def tensor_table(comparison: Comparison) -> TextTable:
    """Tensors of model.onnx against PyTorch."""
    rows = [
        [t.name, f"{t.relative:.1e}", f"{t.mean:.1e}", _share(t.equal)] for t in comparison.tensors
    ]
    columns = ["tensor", "max, relative", "mean, relative", "equal classes"]
    title = f"model.onnx ({comparison.precision}) against {comparison.against}, tensors"
    return TextTable(title, columns, rows)


def task_table(compared: Mapping[str, Comparison], data: str) -> TextTable:
    """Every engine beside PyTorch, task by task."""
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
    images = f"{first.images} images" + (f" of {data}" if data else "")
    title = f"engines ({first.precision}) against {first.against} and labels, {images}"
    return TextTable(title, columns, rows)


def slice_table(comparison: Comparison) -> TextTable:
    """How much worse each part is, or all images where there is none."""
    whole = SliceScore(
        "all",
        comparison.images,
        {name: badness(task) for name, task in comparison.tasks.items()},
        {name: t.interval for name, t in comparison.tasks.items() if t.interval is not None},
    )
    rows = []
    for part in (whole, *comparison.slices):
        cells = [part.slice, str(part.images)]
        for task, value in part.values.items():
            cells.append(f"{100 * value:+.2f} %")
            if task in part.intervals:
                low, high = part.intervals[task]
                cells[-1] += f" ({100 * low:+.2f} to {100 * high:+.2f})"
        rows.append(cells)
    title = "worse by, or different by where there are no labels, with 95 % intervals"
    return TextTable(title, ["slice", "images", *comparison.tasks], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f} %"
