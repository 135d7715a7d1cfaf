"""A network's own ONNX file with its own pre-processing: what a bundle of it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from degmix_edge import ort
from degmix_edge.backends._base import Backend as Base
from degmix_edge.errors import BackendError
from degmix_edge.graph.layout import TO_FIRST, TO_LAST
from degmix_edge.graph.outputs import select_array
from degmix_edge.network import IMAGE, InputSpec, NetworkSpec, as_network_takes
from degmix_edge.preprocess import normalise
from degmix_edge.tasks import TaskSpec, decode, logits_name


class Backend(Base):
    """Runs float ONNX as its author does: normalised in numpy, decoded in numpy.

    Nothing of a bundle takes part: no pass, no recipe and no engine.

    Args:
        spec: The network's promises.
        model: ONNX bytes: an image to one output of logits per task. The image is normalised
            float32 or float16, or uint8 as it is; `(1, 3, H, W)` or `(1, H, W, 3)`.
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
        model, self.rounds = _runnable(self.model)
        self._running = ort.cpu_session(model, optimization="basic")
        self._inputs = self._running.get_inputs()
        self._outputs = [output.name for output in self._running.get_outputs()]
        needed = [task.output or task.name for task in self.spec.tasks]
        missing = [name for name in needed if name not in self._outputs]
        if missing:
            raise BackendError(
                f"{self.name}: has outputs {', '.join(self._outputs)}, expected {missing[0]!r} too"
            )

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        own = {tensor.name: self._own_input(tensor, feed) for tensor in self._inputs}
        with ort.errors():
            outputs = self._running.run(None, own)
        arrays = dict(zip(self._outputs, map(_single, outputs), strict=True))
        maps = {}
        for task in self.spec.tasks:
            logits = select_array(arrays[task.output or task.name], task)
            if not task.is_raw:
                logits = _at_size(logits, *task.sides(self.spec.height, self.spec.width), task)
            maps[task.name] = np.ascontiguousarray(decode(logits, task))
            if self.raw_logits and task.has_logits:
                maps[logits_name(task.name)] = logits
        return maps

    def _own_input(self, tensor: Any, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the file's own input takes, which may be several inputs in one."""
        spec = self.spec
        parts = {
            one.channels: _taken(feed[one.name], one, tensor)
            for one in spec.inputs
            if (one.tensor or one.name) == tensor.name
        }
        if tensor.name == spec.tensor or not (parts or spec.tensor):
            parts[spec.image_channels] = _taken(feed[IMAGE], spec.image, tensor)
        if len(parts) == 1:
            (whole,) = parts.values()
        else:
            order = sorted(parts, key=lambda channels: channels or (0, 0))
            whole = np.concatenate([parts[channels] for channels in order], axis=1)
        is_last = whole.ndim == 4 and tensor.shape[3] == whole.shape[1] != tensor.shape[1]
        whole = _in_type(whole.transpose(TO_LAST) if is_last else whole, tensor)
        return np.ascontiguousarray(whole)

    def _deactivate(self) -> None:
        del self._running


def _taken(image: np.ndarray, spec: InputSpec, tensor: Any) -> np.ndarray:
    """What a frame has of an input as the file's own one takes it, channels first."""
    if spec.kind != "image":
        return as_network_takes(image, spec)
    if tensor.type != "tensor(uint8)":
        return normalise(image, spec.mean, spec.std, spec.color)
    planes = image.transpose(TO_FIRST)
    return planes[:, ::-1] if spec.color == "bgr" else planes


def _in_type(array: np.ndarray, tensor: Any) -> np.ndarray:
    """The array in half precision or as bytes, where the file's own input has that."""
    if tensor.type == "tensor(uint8)":
        return np.asarray(np.rint(array).clip(0, 255), np.uint8)
    return array.astype(np.float16) if tensor.type == "tensor(float16)" else array


def _runnable(model: bytes) -> tuple[bytes, bool]:
    """The model, and whether it rounds to float16.

    One with bfloat16 becomes float32, because ONNX Runtime has no CPU kernels for it.
    """
    import onnx

    from degmix_edge.graph.float32 import narrow_types, widen

    proto = onnx.load_from_string(model)
    kinds = narrow_types(proto)
    if onnx.TensorProto.BFLOAT16 not in kinds:
        return model, bool(kinds)
    widen(proto)
    return bytes(proto.SerializeToString()), False


def _single(array: np.ndarray) -> np.ndarray:
    """Float32 in place of float16."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _at_size(logits: np.ndarray, height: int, width: int, task: TaskSpec) -> np.ndarray:
    """Logits `(N, C, h, w)` at the map's size, as the deployed graph resizes them."""
    _, _, rows, columns = logits.shape
    if (rows, columns) == (height, width):
        return logits
    if task.has_labels and task.decode != "argmax":
        return logits[:, :, nearest(rows, height)[:, None], nearest(columns, width)]
    down, right = _positions(rows, height), _positions(columns, width)
    mixed = _mix(_mix(logits, down, 2), right, 3)
    return np.asarray(mixed, np.float32)


def nearest(size: int, wanted: int) -> np.ndarray:
    """Return the nearest index, of two the lower, for `wanted` samples at half-pixel centres."""
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
