"""A network's own ONNX file with its own pre-processing: what a bundle of it is compared with."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from degmix_edge import ort
from degmix_edge.backends._base import Backend as Base
from degmix_edge.errors import BackendError
from degmix_edge.graph.outputs import select_array
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import normalise
from degmix_edge.tasks import TaskSpec, decode, logits_name


class Backend(Base):
    """Runs float ONNX as its author does: normalised in numpy, decoded in numpy.

    Nothing of a bundle takes part: no pass, no recipe and no engine.

    Args:
        spec: The network's promises.
        model: ONNX bytes: normalised `(1, 3, H, W)` to one output of logits per task.
        raw_logits: Return the logits too, as `<task>_logits`.
    """

    name = "onnx_reference"
    title = "ONNX"
    is_concurrent = True

    def __init__(self, spec: NetworkSpec, model: bytes, *, raw_logits: bool = False) -> None:
        super().__init__(spec)
        self.model, self.raw_logits = model, raw_logits

    @classmethod
    def unavailable(cls) -> str | None:
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install 'degmix-edge[cpu]'"
        return None

    def _activate(self) -> None:
        self._running = ort.cpu_session(self.model, optimization="basic")
        self._outputs = [output.name for output in self._running.get_outputs()]
        needed = [task.output or task.name for task in self.spec.tasks]
        missing = [name for name in needed if name not in self._outputs]
        if missing:
            raise BackendError(
                f"{self.name}: has outputs {', '.join(self._outputs)}, expected {missing[0]!r} too"
            )

    def _infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        planes = normalise(image, self.spec.mean, self.spec.std, self.spec.color)
        name = self._running.get_inputs()[0].name
        with ort.errors():
            outputs = self._running.run(None, {name: planes})
        arrays = dict(zip(self._outputs, outputs, strict=True))
        maps = {}
        for task in self.spec.tasks:
            logits = select_array(arrays[task.output or task.name], task)
            if not task.is_raw:
                logits = _at_size(logits, *task.sides(self.spec.height, self.spec.width), task)
            maps[task.name] = np.ascontiguousarray(decode(logits, task))
            if self.raw_logits and task.has_logits:
                maps[logits_name(task.name)] = logits
        return maps

    def _deactivate(self) -> None:
        del self._running


def _at_size(logits: np.ndarray, height: int, width: int, task: TaskSpec) -> np.ndarray:
    """Logits `(N, C, h, w)` at the map's size, as the deployed graph resizes them."""
    _, _, rows, columns = logits.shape
    if (rows, columns) == (height, width):
        return logits
    if task.has_labels and task.decode != "argmax":
        return logits[:, :, _nearest(rows, height)[:, None], _nearest(columns, width)]
    down, right = _positions(rows, height), _positions(columns, width)
    mixed = _mix(_mix(logits, down, 2), right, 3)
    return np.asarray(mixed, np.float32)


def _nearest(size: int, wanted: int) -> np.ndarray:
    """For each of `wanted` samples at half-pixel centres the nearest index, of two the lower."""
    place = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    return np.ceil(place - 0.5).clip(0, size - 1).astype(np.intp)


def _positions(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `wanted` samples at half-pixel centres: the index before it, and the share."""
    place = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    place = place.clip(0, size - 1)
    before = np.minimum(place.astype(np.intp), max(size - 2, 0))
    return before, place - before


def _mix(values: np.ndarray, positions: tuple[np.ndarray, np.ndarray], axis: int) -> np.ndarray:
    before, share = positions
    after = np.minimum(before + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = share.reshape(shape)
    mixed = np.take(values, before, axis) * (1 - weight) + np.take(values, after, axis) * weight
    return np.asarray(mixed)
