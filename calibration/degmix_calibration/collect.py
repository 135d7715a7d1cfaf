"""Run the float graph over images with ONNX Runtime and histogram the tensors that need ranges.

Memory is bounded whatever the number of images or tensors: images come one at a time, and tensors
in chunks whose values fit `memory_bytes`, each chunk with the part of the graph that it needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from degmix_calibration import observers
from degmix_calibration.convergence import Trace
from degmix_calibration.histogram import Histogram
from degmix_calibration.image_set import digest
from degmix_calibration.state import Changed, State
from degmix_edge.errors import BuildError, InputError, ShapeError
from degmix_edge.network import IMAGE
from degmix_edge.quant.ranges import CalibrationImage, Range, Ranges

MEMORY_BYTES = 512 << 20
"""Of the values that one run returns."""


def collect(
    model: onnx.ModelProto,
    tensors: Iterable[str],
    images: Iterable[tuple[str, np.ndarray]],
    observer: str,
    *,
    advance: Callable[[float], None] = lambda n: None,
    memory_bytes: int = MEMORY_BYTES,
    state: Path | None = None,
) -> Ranges:
    """Ranges of `tensors` over `images`.

    Args:
        model: A deployed float graph: uint8 `(1, H, W, 3)` in.
        tensors: Names of its float tensors to observe.
        images: Name and uint8 `(H, W, 3)` at the graph's size; iterated once a chunk.
        observer: Entry of `degmix_calibration.observers`.
        advance: Called after each image with the share of all chunks that it is.
        memory_bytes: Of the values of one run; see the module.
        state: An interrupted collection leaves this file and goes on from it.

    Raises:
        ConfigError: No such observer.
        InputError: There are no images.
        ShapeError: An image is not of the graph's size.
        BuildError: A tensor is not finite on an image, or one alone does not fit into memory.
    """
    choose = observers.find(observer)
    names = list(dict.fromkeys(tensors))
    sizes = _bytes(model, names)
    saved = State(state, _key(model, names))
    try:
        seen = _everything(model, names, sizes, images, saved, advance, memory_bytes)
    except Changed:
        saved.clear()
        seen = _everything(model, names, sizes, images, saved, advance, memory_bytes)
    found, trace = saved.histograms, Trace()
    if not seen:
        raise InputError("calibration: no images; give a folder with at least 8 that are typical")
    for count, snapshot in sorted(saved.snapshots.items()):
        trace.add(count, {name: choose(h) for name, h in snapshot.items()})
    amax = {name: choose(found[name]) for name in names}
    trace.add(len(seen), amax)
    saved.remove()
    return Ranges(
        graph_sha256=graph_hash(model),
        observer=observer,
        images=tuple(seen),
        tensors={
            name: Range(low=found[name].low, high=found[name].high, amax=amax[name])
            for name in names
        },
        convergence=trace.summary(),
    )


def _everything(
    model: onnx.ModelProto,
    names: Sequence[str],
    sizes: dict[str, int],
    images: Iterable[tuple[str, np.ndarray]],
    saved: State,
    advance: Callable[[float], None],
    memory_bytes: int,
) -> list[CalibrationImage]:
    """Histogram every tensor chunk by chunk; a chunk that does not fit is halved."""
    chunks = _chunks([n for n in names if n not in saved.finished], sizes, memory_bytes)
    seen = saved.images
    total = max(len(chunks), 1)
    while chunks:
        chunk = chunks.pop(0)
        try:
            seen = _observe(model, chunk, images, saved, lambda: advance(1 / total))
        except MemoryError:
            saved.drop(chunk)
            if len(chunk) == 1:
                raise BuildError(
                    f"calibration: no memory for tensor {chunk[0]!r} of {sizes[chunk[0]]:,} bytes "
                    f"beside the network; use a smaller input size or a machine with more memory"
                ) from None
            half = len(chunk) // 2
            chunks[:0] = [chunk[:half], chunk[half:]]
            continue
        saved.finish(chunk, seen)
    return seen


def histograms(
    model: onnx.ModelProto, tensors: Iterable[str], images: Iterable[np.ndarray]
) -> dict[str, Histogram]:
    """Magnitudes of `tensors` over uint8 images `(H, W, 3)` at the graph's size."""
    names = list(dict.fromkeys(tensors))
    saved = State(None, "")
    named = [(str(index), image) for index, image in enumerate(images)]
    for chunk in _chunks(names, _bytes(model, names), MEMORY_BYTES):
        saved.finish(chunk, _observe(model, chunk, named, saved, lambda: None))
    return saved.histograms


def _observe(
    model: onnx.ModelProto,
    chunk: Sequence[str],
    images: Iterable[tuple[str, np.ndarray]],
    saved: State,
    done: Callable[[], None],
) -> list[CalibrationImage]:
    """Histogram `chunk` over all images; the images."""
    session = _session(model, chunk)
    shape = tuple(session.get_inputs()[0].shape[1:])
    seen: list[CalibrationImage] = []
    for name, image in images:
        if image.shape != shape or image.dtype != np.uint8:
            raise ShapeError(
                f"calibration image {name!r}: got {image.dtype} {image.shape}, expected uint8 "
                f"{shape}; `fit_image` makes it so"
            )
        seen.append(CalibrationImage(name=name, sha256=digest(image)))
        if not saved.has(chunk, seen):
            for tensor, value in zip(chunk, _run(session, chunk, image), strict=True):
                if not np.isfinite(value).all():
                    raise BuildError(_broken(model, name, image, tensor))
                saved.histograms.setdefault(tensor, Histogram()).update(value)
            saved.step(chunk, seen)
        done()
    return seen


def _session(model: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # As written: what ORT fuses depends on which tensors are asked for, so that values would differ
    # between chunks in their last bits, and an observer's choice by several percent.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # An arena keeps what the largest moment needed; here every tensor is copied out anyway.
    options.enable_cpu_mem_arena = False
    data = observed(model, names).SerializeToString()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise _as_memory_error(error) from None


def _run(
    session: onnxruntime.InferenceSession, names: Sequence[str], image: np.ndarray
) -> list[np.ndarray]:
    try:
        values: list[np.ndarray] = session.run(list(names), {IMAGE: image[None]})
    except Exception as error:
        raise _as_memory_error(error) from None
    return values


def _as_memory_error(error: Exception) -> Exception:
    text = str(error)
    out = any(word in text for word in ("bad_alloc", "bad allocation", "Failed to allocate"))
    return MemoryError(text) if out or isinstance(error, MemoryError) else error


def _bytes(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, int]:
    """Of each tensor's values; 64 MiB where the shape is not known."""
    inferred = onnx.shape_inference.infer_shapes(model)
    sizes = dict.fromkeys(names, 64 << 20)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        sides = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name in sizes and all(sides):
            sizes[value.name] = 4 * prod(sides)
    return sizes


def _chunks(names: Sequence[str], sizes: dict[str, int], most: int) -> list[list[str]]:
    """In order, each of at most `most` bytes or of one tensor."""
    chunks: list[list[str]] = []
    held = 0
    for name in names:
        if not chunks or held + sizes[name] > most:
            chunks.append([])
            held = 0
        chunks[-1].append(name)
        held += sizes[name]
    return chunks


def _broken(model: onnx.ModelProto, image_name: str, image: np.ndarray, tensor: str) -> str:
    """Names the first node, in graph order, that makes a NaN or an infinity of this image."""
    floats = [(node, out) for node in model.graph.node for out in node.output if out]
    for start in range(0, len(floats), 16):  # a few at a time: all would not fit
        part = floats[start : start + 16]
        values = _run(_session(model, [o for _, o in part]), [o for _, o in part], image)
        for (node, _), value in zip(part, values, strict=True):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return (
                    f"calibration image {image_name!r}: NaN or infinity in tensor {tensor!r}; the "
                    f"first node that makes one is {node.name!r} ({node.op_type}). Check the "
                    f"checkpoint"
                )
    return f"calibration image {image_name!r}: tensor {tensor!r} is not finite"


def _key(model: onnx.ModelProto, names: Sequence[str]) -> str:
    return hashlib.sha256((graph_hash(model) + "\n".join(names)).encode()).hexdigest()


def graph_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of nodes and weights; metadata does not count."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def observed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The part of `model` that `names` need, with these as its outputs."""
    makers = {out: node for node in model.graph.node for out in node.output}
    needed: set[int] = set()
    frontier = [name for name in names if name in makers]
    while frontier:
        node = makers[frontier.pop()]
        if id(node) not in needed:
            needed.add(id(node))
            frontier += [name for name in node.input if name in makers]
    nodes = [node for node in model.graph.node if id(node) in needed]
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in names]
    graph = onnx.helper.make_graph(nodes, "observed", list(model.graph.input), outputs, weights)
    made = onnx.helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    return made
