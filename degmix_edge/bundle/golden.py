"""The golden check: one frame and the maps that it must give on every machine and backend."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from degmix_edge.errors import BundleError
from degmix_edge.network import IMAGE, NetworkSpec


class Tolerance(NamedTuple):
    """Allowed differences of maps.

    Attributes:
        labels: Fraction of the pixels of a class map, or of other integers, that may differ.
        values: Mean difference of another map, as a fraction of the map's range.
    """

    labels: float
    values: float


SAME_ENGINE = Tolerance(0.05, 0.02)
"""Limits for one engine on two machines, whose kernels round differently at boundaries."""
LOWERED = {"fp32": Tolerance(0.001, 0.001), "fp16": Tolerance(0.01, 0.01)}
LOWERED |= {"bf16": Tolerance(0.05, 0.03)}
LOWERED |= {"int8": Tolerance(0.5, 0.15), "fp8": Tolerance(0.5, 0.15)}
"""Limits for an engine and its ONNX, by precision.

INT8 kernels of a CPU round more often than the ONNX. These limits detect a wrong engine, even that
of an untrained network; `compare` measures what the rounding costs each task.
"""
_HEADER_BYTES = 4096
SCALE, INPUT = ":scale", ":input"
"""Suffixes of the array with a float map's smallest value and step, and of further inputs."""


@dataclass(frozen=True)
class Differences:
    """The difference of each task's map from the expected one.

    Attributes:
        by_task: Fraction of different labels, or mean difference relative to the map's range.
        passed: Whether every task is within the tolerance.
    """

    by_task: dict[str, float]
    passed: bool

    @property
    def text(self) -> str:
        """The differences as a text such as `semseg 0.10 %, depth 0.02 %`."""
        return ", ".join(f"{task} {100 * value:.2f} %" for task, value in self.by_task.items())


def differences(
    spec: NetworkSpec,
    want: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    allowed: Tolerance = SAME_ENGINE,
) -> Differences:
    """Compare the maps `got` with the expected maps `want`; both have every task of `spec`."""
    return worst_differences(spec, [want], [got], allowed)


def worst_differences(
    spec: NetworkSpec,
    want: Sequence[Mapping[str, np.ndarray]],
    got: Sequence[Mapping[str, np.ndarray]],
    allowed: Tolerance = SAME_ENGINE,
) -> Differences:
    """Compare the maps of several images; of each task, the image that differs most counts.

    The range of a map is that over all images, because it may be nearly flat on one of them.
    """
    by_task, passed = {}, True
    for task in spec.tasks:
        pairs = [(a[task.name], b[task.name]) for a, b in zip(want, got, strict=True)]
        if pairs[0][0].dtype.kind != "f":
            values, tolerance = [float(np.mean(a != b)) for a, b in pairs], allowed.labels
        else:
            extent = max(a.max() for a, _ in pairs) - min(a.min() for a, _ in pairs)
            errors = (np.abs(a.astype(np.float64) - b.astype(np.float64)) for a, b in pairs)
            values = [float(np.mean(error)) / (float(extent) or 1.0) for error in errors]
            tolerance = allowed.values
        by_task[task.name] = float(np.max(values))  # of NaN and a number it is NaN
        passed = passed and by_task[task.name] <= tolerance  # a NaN does not pass
    return Differences(by_task, passed)


def pack(feed: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray]) -> bytes:
    """Pack the inputs of one frame and its maps into a compressed npz file.

    Float maps keep 8 bits between their smallest and largest value. The error is a tenth of the
    tolerance, and the file is much smaller.
    """
    arrays = {IMAGE: feed[IMAGE][0]}
    arrays |= {f"{name}{INPUT}": array for name, array in feed.items() if name != IMAGE}
    for name, values in maps.items():
        if values.dtype.kind != "f":
            arrays[name] = values
            continue
        low, high = float(values.min()), float(values.max())
        step = (high - low) / 255 or 1.0
        arrays[name] = np.rint((values - low) / step).astype(np.uint8)
        arrays[f"{name}{SCALE}"] = np.array([low, step], np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def unpack(
    data: bytes, spec: NetworkSpec, where: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what a golden file holds: what a backend takes of one frame, and the maps by task.

    Args:
        data: The bytes of the file.
        spec: The network; only its inputs and its maps are read, at their own sizes.
        where: The bundle's folder, for error messages.

    Raises:
        BundleError: `data` is not the golden file of such a network.
    """
    stored: dict[str, tuple[tuple[Any, ...], np.dtype[Any]]] = {}
    stored[IMAGE] = (spec.image_spec.shape[1:], np.dtype(spec.image_spec.dtype))
    for tensor in spec.input_specs[1:]:
        shape = spec.row_shape(tensor)
        stored[f"{tensor.name}{INPUT}"] = (shape, np.dtype(tensor.dtype))
    for task, map_spec in zip(spec.tasks, spec.map_specs, strict=True):
        dtype = np.dtype(map_spec.dtype)
        stored[task.name] = (
            spec.row_shape(map_spec),
            np.dtype(np.uint8) if dtype.kind == "f" else dtype,
        )
        if dtype.kind == "f":
            stored[f"{task.name}{SCALE}"] = ((2,), np.dtype(np.float32))
    try:
        arrays = _read_arrays(data, stored)
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on damaged files
        reason = str(error) or type(error).__name__
        raise BundleError(f"{where}: its golden file cannot be read: {reason}") from None
    feed = {IMAGE: arrays.pop(IMAGE)[None]}
    for tensor in spec.input_specs[1:]:
        feed[tensor.name] = arrays.pop(f"{tensor.name}{INPUT}")
    for name in [n for n in arrays if n.endswith(SCALE)]:
        low, step = arrays.pop(name)
        task_name = name.removesuffix(SCALE)
        arrays[task_name] = low + step * arrays[task_name].astype(np.float32)
    return feed, arrays


def _read_arrays(data: bytes, expected: Mapping[str, tuple[Any, np.dtype]]) -> dict[str, Any]:
    """Read the arrays of an NPZ whose names, shapes and dtypes are known, and nothing else.

    A small compressed file can hold huge arrays, so sizes are compared before anything is unpacked.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = [f"{name}.npy" for name in expected]
        if sorted(file.namelist()) != sorted(names):
            raise ValueError(f"holds {sorted(file.namelist())}, expected {sorted(names)}")
        for name, (shape, dtype) in expected.items():
            info = file.getinfo(f"{name}.npy")
            size = math.prod(shape) * dtype.itemsize
            if not size <= info.file_size <= size + _HEADER_BYTES:
                raise ValueError(f"{name}: {info.file_size} bytes, expected {size} and a header")
            with file.open(info) as stream:
                array = np.lib.format.read_array(io.BytesIO(stream.read()), allow_pickle=False)
            if array.shape != tuple(shape) or array.dtype != dtype:
                raise ValueError(
                    f"{name}: {array.dtype} {array.shape}, expected {dtype} {tuple(shape)}"
                )
            arrays[name] = array
    return arrays
