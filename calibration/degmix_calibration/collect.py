"""Run the float graph over images with ONNX Runtime and histogram the tensors that need ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnxruntime

from degmix_calibration import observers
from degmix_calibration.histogram import Histogram
from degmix_edge.errors import BuildError, InputError
from degmix_edge.network import IMAGE
from degmix_edge.quant.ranges import CalibrationImage, Range, Ranges


def collect(
    model: onnx.ModelProto,
    tensors: Iterable[str],
    images: Iterable[tuple[str, np.ndarray]],
    observer: str,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> Ranges:
    """Ranges of `tensors` over `images`, one image at a time.

    Args:
        model: A deployed float graph: uint8 `(1, H, W, 3)` in.
        tensors: Names of its float tensors to observe.
        images: Name and uint8 `(H, W, 3)` at the graph's size.
        observer: Entry of `degmix_calibration.observers`.
        advance: Called with 1 after each image.

    Raises:
        ConfigError: No such observer.
        InputError: There are no images.
        BuildError: A tensor is not finite on an image.
    """
    choose = observers.find(observer)
    histograms = {name: Histogram() for name in tensors}
    session = onnxruntime.InferenceSession(
        _observed(model, list(histograms)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    seen = []
    for name, image in images:
        values = session.run(list(histograms), {IMAGE: image[None]})
        for tensor, value in zip(histograms, values, strict=True):
            if not np.isfinite(value).all():
                raise BuildError(f"calibration image {name!r}: tensor {tensor!r} is not finite")
            histograms[tensor].update(value)
        digest = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
        seen.append(CalibrationImage(name=name, sha256=digest))
        advance(1)
    if not seen:
        raise InputError("calibration: no images; give a folder with at least 8 that are typical")
    return Ranges(
        graph_sha256=graph_hash(model),
        observer=observer,
        images=tuple(seen),
        tensors={
            name: Range(low=h.low, high=h.high, amax=choose(h)) for name, h in histograms.items()
        },
    )


def histograms(
    model: onnx.ModelProto, tensors: Iterable[str], images: Iterable[np.ndarray]
) -> dict[str, Histogram]:
    """Magnitudes of `tensors` over uint8 images `(H, W, 3)` at the graph's size."""
    found = {name: Histogram() for name in tensors}
    session = onnxruntime.InferenceSession(
        _observed(model, list(found)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for image in images:
        for histogram, value in zip(
            found.values(), session.run(list(found), {IMAGE: image[None]}), strict=True
        ):
            histogram.update(value)
    return found


def graph_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of nodes and weights; metadata does not count."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def _observed(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    have = {output.name for output in observed.graph.output}
    observed.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in have
    )
    return observed
