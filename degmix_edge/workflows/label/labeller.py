"""A session that labels: the maps of an image, and the numbers that sum them up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from types import TracebackType
from typing import Any

import numpy as np
from degmix_calibration.image_set import features

from degmix_edge.backends import Backend, EngineBackend
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Placement, read_image
from degmix_edge.runtime import Maps, TaskMap, load
from degmix_edge.runtime.frames import fit_frame
from degmix_edge.tasks import TaskSpec
from degmix_edge.workflows.label.job import Job
from degmix_edge.workflows.label.reading import Item

STRIDE, CONFIDENCE, ENTROPY = 4, "_confidence", "_entropy"
"""How `graph.certainty` calls its outputs, and of which pixels they are."""
DIGITS = 6
"""Decimals of the numbers that sum up a map: more would only be noise."""


@dataclass(frozen=True)
class Labelled:
    """What a worker made of one item.

    Attributes:
        item: The item, without its image.
        size: Height and width of the image in pixels.
        maps: By task, the array at the size that was asked for.
        summary: By column, numbers about the image and its maps.
        latency_ms: Milliseconds of reading and fitting, and of the network; a batch shares its own.
        reason: Why the image is set aside; then there are no maps.
    """

    item: Item
    size: tuple[int, int] = (0, 0)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    latency_ms: tuple[float, float] = (0.0, 0.0)
    reason: str = ""

    def timed(self, pre_ms: float, net_ms: float) -> Labelled:
        """Return the same with a latency."""
        return replace(self, latency_ms=(pre_ms, net_ms))


class Labeller:
    """A bundle on a backend, for one process. Use it with `with`.

    On ONNX Runtime the engine also says how certain it is of its classes. Other backends give
    decoded maps alone, so that confidence and entropy of classes are unknown there.

    Args:
        job: The run.

    Attributes:
        tasks: The tasks whose maps are kept.

    Raises:
        BundleError: The bundle is another one than when the run began.
        ConfigError: The network takes more than one image.
        BackendError: The backend cannot run it.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        opened = job.open()
        check_network(opened.manifest.network)
        session = load(opened, size=job.size, backend=job.backend, threads=job.threads)
        self.fit, self.spec = session.fit, session.spec
        self.tasks = [self.spec.task(name) for name in job.tasks]
        self._backend: Backend = session.backend
        self._close = session.close
        certain = _certain(session.backend)
        if certain is not None:
            session.close()
            self._backend = certain.__enter__()
            self._close = lambda: certain.__exit__(None, None, None)

    def __enter__(self) -> Labeller:
        """Return the labeller, which is open since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend."""
        self._close()

    def label(self, items: Sequence[Item]) -> Iterator[Labelled]:
        """Give what became of each item, in order; the network runs on all that can be read.

        Args:
            items: At most a batch of them.
        """
        start = time.perf_counter()
        read = [self._read(item) for item in items]
        good = [one for one in read if isinstance(one, _Read)]
        ready = time.perf_counter()
        arrays: dict[str, np.ndarray] = {}
        if good:
            names = good[0].feed
            feed = {name: np.concatenate([one.feed[name] for one in good]) for name in names}
            arrays = self._backend.infer(feed)
        done = time.perf_counter()
        row = 0
        for item, one in zip(items, read, strict=True):
            bare = replace(item, image=None)
            if not isinstance(one, _Read):
                yield Labelled(bare, reason=one)
                continue
            yield self._labelled(bare, one, {n: a[row : row + 1] for n, a in arrays.items()}).timed(
                1e3 * (ready - start), 1e3 * (done - ready)
            )
            row += 1

    def _read(self, item: Item) -> _Read | str:
        """An item as the network takes it, or why it cannot be read."""
        if item.image is None:
            return item.reason
        try:
            image = read_image(item.image)
            feed, placement = fit_frame(image, self.fit, self.spec)
        except InputError as error:
            return str(error)
        return _Read(image, feed, placement)

    def _labelled(self, item: Item, read: _Read, arrays: Mapping[str, np.ndarray]) -> Labelled:
        maps = Maps.of(arrays, self.tasks, read.placement)
        grey = read.image.mean(-1, dtype=np.float64)
        summary: dict[str, Any] = {"brightness": _rounded(grey.mean() / 255)}
        summary["look"] = [_rounded(value) for value in features(read.image)]
        for name, one in maps.items():
            summary |= {f"{name}_{key}": value for key, value in _summed(one).items()}
            for key in (CONFIDENCE, ENTROPY):
                if f"{name}{key}" in arrays:
                    seen = read.placement.at_stride(STRIDE).crop(arrays[f"{name}{key}"][0])
                    summary[f"{name}{key}"] = _rounded(seen.mean(dtype=np.float64))
        native = {n: m.at_image_size() for n, m in maps.items()} if self.job.native else maps
        kept = {name: np.asarray(array) for name, array in native.items()}
        return Labelled(item, read.image.shape[:2], kept, summary)


@dataclass(frozen=True)
class _Read:
    """An image that could be read, and what the network takes of it."""

    image: np.ndarray
    feed: Mapping[str, np.ndarray]
    placement: Placement


def check_network(spec: NetworkSpec, verb: str = "label") -> None:
    """Check that a network takes single images, as `label` and `serve` give them.

    Args:
        spec: The network.
        verb: Who gives them, for the message.

    Raises:
        ConfigError: It takes more than an image, no picture, or remembers earlier frames. Or it has
            only raw outputs.
    """
    if spec.takes_map or spec.inputs:
        more = ", ".join(one.name for one in spec.inputs) or spec.color
        raise ConfigError(
            f"{verb}: the network {spec.model!r} takes {more}, and {verb} runs networks of one "
            "picture; use `run` for it"
        )
    raw = [task.name for task in spec.tasks if task.is_raw]
    if len(raw) == len(spec.tasks):
        raise ConfigError(f"{verb}: the network {spec.model!r} has only raw outputs, and no maps")


def columns_of(task: TaskSpec) -> tuple[str, ...]:
    """Return the names of the numbers that sum up a map of a task, without the task's name."""
    if task.has_labels:
        return ("shares", "confidence", "entropy")
    if task.components:
        return ()
    return ("mean", "confidence", "entropy") if _is_probability(task) else ("mean",)


def _is_probability(task: TaskSpec) -> bool:
    return task.decode in ("sigmoid", "foreground") and not task.components


def _summed(one: TaskMap) -> dict[str, Any]:
    """Shares of classes, or the mean of the numbers; of probabilities, how certain they are."""
    spec, values = one.spec, np.asarray(one)
    if spec.has_labels:
        counts = np.bincount(values.reshape(-1), minlength=spec.num_channels)
        return {"shares": [_rounded(share) for share in counts / max(1, values.size)]}
    if spec.components:
        return {}
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    summary: dict[str, Any] = {"mean": _rounded(finite.mean()) if finite.size else None}
    if _is_probability(spec) and finite.size:
        shares = np.clip(finite, 1e-12, 1 - 1e-12)
        entropy = -(shares * np.log(shares) + (1 - shares) * np.log1p(-shares))
        summary["confidence"] = _rounded(np.maximum(shares, 1 - shares).mean())
        summary["entropy"] = _rounded(entropy.mean())
    return summary


def _rounded(value: Any) -> float:
    return round(float(value), DIGITS)


def _certain(backend: Backend) -> EngineBackend | None:
    """The backend again, with an engine that says how certain it is; None where none can."""
    if backend.name != "onnxruntime" or backend.is_split or find_spec("onnx") is None:
        return None
    assert isinstance(backend, EngineBackend)
    from degmix_edge.graph.certainty import add_certainty

    engine, tasks = add_certainty(backend.engine, backend.spec)
    return type(backend)(backend.spec, engine, threads=backend.threads) if tasks else None
