"""The golden check: one image and the maps it must give, on every machine and backend."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from degmix_edge.errors import BuildError, BundleError
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.tasks import logits_name


class Tolerance(NamedTuple):
    """What may differ: the share of labels, and values' mean as a fraction of the map's range."""

    labels: float
    values: float


SAME_ENGINE = Tolerance(0.05, 0.02)
"""One engine on two machines: kernels round apart at boundaries."""
LOWERED = {"fp32": Tolerance(0.001, 0.001), "fp16": Tolerance(0.01, 0.01)}
LOWERED |= {"int8": Tolerance(0.5, 0.15)}
"""An engine and its ONNX. INT8 kernels of a CPU round more often: this finds a wrong
engine, even of an untrained network; what the rounding costs a task, `compare` says."""
SCALE = ":scale"
"""Behind a float map's name: its smallest value and step."""


@dataclass(frozen=True)
class Differences:
    """Per task, the share of other labels or the mean difference relative to the range."""

    by_task: dict[str, float]
    passed: bool

    @property
    def text(self) -> str:
        """`semseg 0.1 %, depth 0.0 %`."""
        return ", ".join(f"{task} {100 * value:.2f} %" for task, value in self.by_task.items())


def differences(
    spec: NetworkSpec,
    want: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    allowed: Tolerance = SAME_ENGINE,
) -> Differences:
    """How far the maps `got` are from `want`; both have every task of `spec`."""
    by_task, passed = {}, True
    for task in spec.tasks:
        a, b = want[task.name], got[task.name]
        if task.decode == "argmax":
            value, tolerance = float(np.mean(a != b)), allowed.labels
        else:
            a, b = a.astype(np.float64), b.astype(np.float64)
            extent = float(np.ptp(a)) or 1.0
            value, tolerance = float(np.mean(np.abs(a - b))) / extent, allowed.values
        by_task[task.name] = value
        passed = passed and value <= tolerance  # a NaN does not pass
    return Differences(by_task, passed)


def pack(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> bytes:
    """Image and maps as a compressed npz.

    Float maps keep 8 bits between their smallest and largest value: a tenth of the tolerance, and a
    fraction of the bytes.
    """
    arrays = {IMAGE: image}
    for name, values in maps.items():
        if values.dtype == np.uint8:
            arrays[name] = values
            continue
        low, high = float(values.min()), float(values.max())
        step = (high - low) / 255 or 1.0
        arrays[name] = np.rint((values - low) / step).astype(np.uint8)
        arrays[f"{name}{SCALE}"] = np.array([low, step], np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes, where: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Image uint8 `(H, W, 3)` and maps by task, as packed.

    Raises:
        BundleError: It is no golden file.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        image = arrays.pop(IMAGE)
        for name in [n for n in arrays if n.endswith(SCALE)]:
            low, step = arrays.pop(name)
            task = name.removesuffix(SCALE)
            arrays[task] = low + step * arrays[task].astype(np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{where}: its golden file cannot be read: {error}") from None
    return image, arrays


def first_nonfinite(model: bytes, image: np.ndarray) -> None:
    """Run `model` on `image` and find the first node with a NaN or an infinity.

    Logits are looked at, not maps: an argmax hides a NaN.

    Raises:
        BuildError: Names that node.
    """
    import onnx
    import onnxruntime

    proto = onnx.load_from_string(model)
    watched = [n for node in proto.graph.node for n in node.output if n.endswith(logits_name(""))]

    def run(names: list[str]) -> dict[str, np.ndarray]:
        observed = onnx.ModelProto()
        observed.CopyFrom(proto)
        del observed.graph.output[:]
        observed.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Unoptimised, so that every tensor of the graph exists.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            observed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(names, session.run(None, {IMAGE: image}), strict=True))

    def broken(array: np.ndarray) -> bool:
        return array.dtype.kind == "f" and not bool(np.isfinite(array).all())

    if not any(broken(array) for array in run(watched).values()):
        return
    everything = run([n for node in proto.graph.node for n in node.output if n])
    for node in proto.graph.node:
        for name in node.output:
            if name and broken(everything[name]):
                weights = "; its weights hold one" if _weights_broken(proto, node) else ""
                raise BuildError(
                    f"NaN or infinity in the network's outputs; the first node that makes one is "
                    f"{node.name!r} ({node.op_type}){weights}. Check the checkpoint, or "
                    "keep that node "
                    f"float with --keep-float"
                )


def _weights_broken(proto: object, node: object) -> bool:
    import onnx

    inputs = set(node.input)  # type: ignore[attr-defined]
    for tensor in proto.graph.initializer:  # type: ignore[attr-defined]
        if tensor.name in inputs:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                return True
    return False
