"""Compare an engine with PyTorch: tensors through polygraphy, maps by each task's own metric.

A softmax or an argmax hides damage that the logits show, and the mean over tasks hides a broken
one: so logits are compared too, and the worst task decides.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, IterationResult, RunResults
from polygraphy.logger import G_LOGGER

from degmix_edge import metrics
from degmix_edge.backends import Backend
from degmix_edge.bundle import MODEL, Bundle, output_errors
from degmix_edge.errors import InputError
from degmix_edge.metrics import relative_drop
from degmix_edge.network import IMAGE
from degmix_edge.preprocess import Image, fit_image
from degmix_edge.runtime import Maps, Session, TaskMap
from degmix_edge.tasks import TaskSpec, logits_name

LOGITS_TOLERANCE = 1e-4
"""Largest difference of FP32 logits, as a fraction of the largest logit."""
LABELS_TOLERANCE = 1e-3
"""Share of pixels whose class may differ in FP32."""


class TorchRunner(BaseRunner):  # type: ignore[misc]
    """A polygraphy runner over a backend of ours, so that `polygraphy` code can compare with it."""

    def __init__(self, backend: Backend, name: str | None = None) -> None:
        super().__init__(name=name or backend.name, prefix="degmix")
        self.backend = backend

    def get_input_metadata_impl(self) -> TensorMetadata:
        """The one input: a uint8 image."""
        spec = self.backend.spec.image_spec
        return TensorMetadata().add(spec.name, np.dtype(spec.dtype), list(spec.shape))

    def activate_impl(self) -> None:
        """Activate the backend, unless somebody else has."""
        self.owner = not self.backend.active
        self.backend.__enter__()

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        """Maps, and logits where the backend gives them."""
        start = time.perf_counter()
        maps = OrderedDict(self.backend.infer(feed_dict[IMAGE]))
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
    """Everything that was compared, and whether the worst task is inside the tolerance."""

    images: int
    tensors: tuple[TensorDifference, ...]
    tasks: tuple[TaskResult, ...]
    worst: str
    passed: bool
    verdict: str


IMAGE_HASH = "image_sha256"
"""An output beside the maps of saved results: which image they are of."""


def save_results(
    session: Session,
    images: Iterable[Image],
    path: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Run images and keep the maps as polygraphy's RunResults, which its tools read too.

    Raises:
        OutputError: The file cannot be written.
    """
    name = session.backend.name
    iterations = []
    for image in images:
        pixels, _ = fit_image(image, session.fit)
        start = time.perf_counter()
        maps = session.backend.infer(pixels[None])
        outputs = OrderedDict(maps) | {IMAGE_HASH: _hash(pixels)}
        seconds = time.perf_counter() - start
        iterations.append(IterationResult(outputs, runtime=seconds, runner_name=name))
        advance(1)
    with output_errors(path), G_LOGGER.verbosity(G_LOGGER.ERROR):
        RunResults([(name, iterations)]).save(str(path))


class Recorded:
    """Saved results in the place of a session: the maps that a robot gave for an image.

    Raises:
        InputError: The file holds no such results, or not all of the bundle's tasks.
    """

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path, self.bundle, self.fit = path, bundle, bundle.manifest.fit
        self.spec = bundle.manifest.network
        try:
            with G_LOGGER.verbosity(G_LOGGER.ERROR):
                ((self.name, iterations),) = RunResults.load(str(path)).lst
            self._maps = {bytes(r[IMAGE_HASH]): {k: r[k] for k in r} for r in iterations}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; `compare --save-results` writes one") from None
        except Exception as error:  # polygraphy's errors, JSON's, and what a foreign file gives
            raise InputError(f"{path}: no results of `compare --save-results`: {error}") from None
        have = set().union(*self._maps.values()) if self._maps else set()
        lacking = [task for task in self.spec.task_names if task not in have]
        if lacking:
            raise InputError(f"{path}: has no {', '.join(lacking)}; it is of another bundle")

    def __call__(self, image: Image) -> Maps:
        """Maps of one image.

        Raises:
            InputError: The robot was not given it.
        """
        pixels, placement = fit_image(image, self.fit)
        arrays = self._maps.get(bytes(_hash(pixels)))
        if arrays is None:
            raise InputError(
                f"{self.path}: has {len(self._maps)} images, and this one is not among them; give "
                f"the same --data as to --save-results"
            )
        return Maps.of(arrays, self.spec.tasks, placement)


def _hash(pixels: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(pixels.tobytes()).digest(), np.uint8)


def tensor_differences(
    bundle: Bundle, torch_backend: Backend, images: Sequence[np.ndarray]
) -> tuple[TensorDifference, ...]:
    """Logits and maps of model.onnx (polygraphy's ONNX Runtime runner) against PyTorch.

    Args:
        bundle: Its model.onnx runs with every task's logits as outputs too.
        torch_backend: With `raw_logits`.
        images: uint8 `(H, W, 3)` at the network's size.
    """
    spec = bundle.manifest.network
    names = [n for t in spec.task_names for n in (logits_name(t), t)]
    model = ModifyOutputs(OnnxFromPath(str(bundle.file(MODEL))), outputs=names)
    feeds = [{IMAGE: image[None]} for image in images]
    with G_LOGGER.verbosity(G_LOGGER.ERROR):
        runners = [
            TorchRunner(torch_backend, "pytorch"),
            OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(model), providers=["cpu"]), "onnx"),
        ]
        results = Comparator.run(runners, data_loader=feeds)
    pairs = list(zip(results["pytorch"], results["onnx"], strict=True))
    return tuple(_difference(name, [(a[name], b[name]) for a, b in pairs]) for name in names)


def _difference(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> TensorDifference:
    first = pairs[0][0]
    equal = None
    if first.dtype == np.uint8:
        equal = float(np.mean([np.mean(a == b) for a, b in pairs]))
    largest = max(float(np.abs(a.astype(np.float64)).max()) for a, _ in pairs) or 1.0
    gaps = [np.abs(a.astype(np.float64) - b) for a, b in pairs]
    return TensorDifference(
        name,
        relative=max(float(gap.max()) for gap in gaps) / largest,
        mean=float(np.mean([gap.mean() for gap in gaps])) / largest,
        equal=equal,
    )


def compare(
    session: Session | Recorded,
    reference: Session,
    samples: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    tensors: tuple[TensorDifference, ...] = (),
    *,
    max_drop: float = 0.02,
    max_disagreement: float = 0.10,
    advance: Callable[[int], None] = lambda n: None,
) -> Comparison:
    """Score the engine against PyTorch and, where there are labels, both against them.

    Args:
        session: The engine.
        reference: PyTorch FP32.
        samples: Image and labels by task, of one size; labels may be empty.
        tensors: What `tensor_differences` gave. An FP32 bundle must also keep within its
            tolerances.
        max_drop: With labels, how much worse a task may be, as a fraction of PyTorch's value.
        max_disagreement: Without labels, how much a task's map may differ.
        advance: Called with 1 after each image.
    """
    scores = {task.name: _Scores(task) for task in session.spec.tasks}
    count = 0
    for image, labels in samples:
        want, got = reference(image), session(image)
        for name, score in scores.items():
            score.update(want[name], got[name], labels.get(name))
        count += 1
        advance(1)
    tasks = tuple(score.result() for score in scores.values())
    exceeded = [problem for t in tasks for problem in _task_problem(t, max_drop, max_disagreement)]
    if session.bundle is not None and session.bundle.manifest.precision == "fp32":
        exceeded += [problem for t in tensors for problem in _fp32_problems(t)]
    worst = max(tasks, key=lambda t: _badness(t) if _badness(t) == _badness(t) else np.inf)
    verdict = "; ".join(exceeded) or f"every task is inside its tolerance; worst: {worst.task}"
    return Comparison(count, tensors, tasks, worst.task, not exceeded, verdict)


def _badness(result: TaskResult) -> float:
    return result.disagreement if result.drop is None else result.drop


def _task_problem(result: TaskResult, max_drop: float, max_disagreement: float) -> list[str]:
    """What is out of tolerance; a NaN is."""
    allowed = max_disagreement if result.drop is None else max_drop
    if _badness(result) <= allowed:
        return []
    how = "differs from PyTorch by" if result.drop is None else "is worse than PyTorch by"
    return [f"{result.task} {how} {100 * _badness(result):.1f} % (allowed {100 * allowed:g} %)"]


def _fp32_problems(tensor: TensorDifference) -> list[str]:
    if tensor.equal is not None:
        if 1 - tensor.equal > LABELS_TOLERANCE:
            return [f"{tensor.name}: only {100 * tensor.equal:.2f} % equal classes"]
    elif tensor.relative > LOGITS_TOLERANCE and tensor.name.endswith(logits_name("")):
        return [f"{tensor.name}: relative difference {tensor.relative:.1e} > {LOGITS_TOLERANCE:g}"]
    return []


class _Scores:
    """Three metrics of one task: engine on PyTorch, PyTorch on labels, engine on labels."""

    def __init__(self, task: TaskSpec) -> None:
        self.task, self.kind = task, metrics.find(task.metric)
        self.agreement, self.reference, self.value = (
            self.kind(task.num_channels) for _ in range(3)
        )
        self.labelled, self.extents = False, []  # type: tuple[bool, list[float]]

    def update(self, want: TaskMap, got: TaskMap, label: np.ndarray | None) -> None:
        """One image; its label is met on the image's own pixels."""
        self.agreement.update(np.asarray(got), np.asarray(want))
        self.extents.append(float(np.mean(np.abs(want))))
        if label is not None:
            self.labelled = True
            self.reference.update(want.at_image_size(), label)
            self.value.update(got.at_image_size(), label)

    def result(self) -> TaskResult:
        """Over all images."""
        agreement = self.agreement.compute()
        reference = self.reference.compute() if self.labelled else None
        value = self.value.compute() if self.labelled else None
        drop = None
        if reference is not None and value is not None:
            drop = relative_drop(self.kind, reference, value)
        return TaskResult(
            self.task.name,
            self.task.metric,
            self.kind.unit,
            agreement,
            self._fraction(agreement),
            reference,
            value,
            drop,
        )

    def _fraction(self, agreement: float) -> float:
        """Disagreement as a fraction: of 100 %, of 90 degrees, of the mean depth."""
        if self.kind.higher_is_better:
            return 1 - agreement / 100
        whole = 90.0 if self.task.decode == "unit_vector" else float(np.mean(self.extents))
        return agreement / whole if whole else float(agreement > 0)
