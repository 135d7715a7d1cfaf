"""Run the float graph over images with ONNX Runtime and histogram the tensors that need ranges.

Memory does not grow with the number of images or tensors. Images are processed one at a time, and
tensors in chunks whose values fit into memory. Each chunk runs only the part of the graph that it
needs, and runs it on all images: the fewer chunks, the sooner a calibration is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from degmix_calibration import observers
from degmix_calibration.collect_state import Changed, State
from degmix_calibration.convergence import Trace
from degmix_calibration.histogram import Histogram
from degmix_calibration.image_set import digest
from degmix_calibration.memory import values_bytes
from degmix_edge.errors import BuildError, InputError, ShapeError
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session, filled
from degmix_edge.quant.ranges import CalibrationImage, Range, Ranges


def collect(
    model: onnx.ModelProto,
    tensors: Iterable[str],
    images: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    observer: str,
    *,
    advance: Callable[[float], None] = lambda n: None,
    memory_bytes: int | None = None,
    state: Path | None = None,
) -> Ranges:
    """Return the ranges of `tensors` over `images`.

    Args:
        model: A deployed float graph.
        tensors: Names of the graph's float tensors to observe.
        images: Pairs of a name and the graph's inputs of one frame, by name; iterated once for each
            chunk of tensors.
        observer: Entry of `degmix_calibration.observers`.
        advance: Called after each image of a chunk with 1 / number of chunks.
        memory_bytes: Limit for the values that one run returns; tensors are split into chunks that
            fit. None is a quarter of the memory that is free, and at least 512 MiB.
        state: File that an interrupted collection leaves, and from which the next one resumes.

    Raises:
        ConfigError: There is no such observer.
        InputError: There are no images.
        ShapeError: An input does not have the graph's size.
        BuildError: A tensor is not finite on an image, or a single tensor does not fit into memory.
    """
    choose = observers.find(observer)
    names = list(dict.fromkeys(tensors))
    most = values_bytes() if memory_bytes is None else memory_bytes
    saved = State(state, _key(model, names))
    try:
        observed_images = _everything(model, names, images, saved, advance=advance, most=most)
    except Changed:
        saved.clear()
        observed_images = _everything(model, names, images, saved, advance=advance, most=most)
    by_tensor, trace = saved.histograms, Trace()
    if not observed_images:
        raise InputError("calibration: no images; give a folder with at least 8 that are typical")
    for count, snapshot in sorted(saved.snapshots.items()):
        trace.add(count, {name: choose(h) for name, h in snapshot.items()})
    amax = {name: choose(by_tensor[name]) for name in names}
    trace.add(len(observed_images), amax)
    saved.remove()
    return Ranges(
        graph_sha256=graph_hash(model),
        observer=observer,
        images=tuple(observed_images),
        tensors={
            name: Range(low=by_tensor[name].low, high=by_tensor[name].high, amax=amax[name])
            for name in names
        },
        convergence=trace.summary(),
    )


def _everything(
    model: onnx.ModelProto,
    names: Sequence[str],
    images: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    saved: State,
    *,
    advance: Callable[[float], None],
    most: int,
) -> list[CalibrationImage]:
    """Histogram every tensor in chunks of `most` bytes, and halve one that memory does not hold."""
    sizes = _bytes(model, names)
    # What an interrupted run had begun goes on first, though another limit would split otherwise.
    begun = saved.begun
    rest = [n for n in names if n not in saved.finished and n not in begun]
    chunks = [begun] * bool(begun) + _chunks(rest, sizes, most)
    observed_images = saved.images
    total = max(len(chunks), 1)
    while chunks:
        chunk = chunks.pop(0)
        try:
            observed_images = _observe(model, chunk, images, saved, lambda: advance(1 / total))
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
        saved.finish(chunk, observed_images, is_last=not chunks)
    return observed_images


def histograms(
    model: onnx.ModelProto, tensors: Iterable[str], feeds: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, Histogram]:
    """Histogram the magnitudes of `tensors` over frames, each the graph's inputs by name."""
    names = list(dict.fromkeys(tensors))
    saved = State(None, "")
    named = [(str(index), feed) for index, feed in enumerate(feeds)]
    for chunk in _chunks(names, _bytes(model, names), values_bytes()):
        saved.finish(chunk, _observe(model, chunk, named, saved, lambda: None))
    return saved.histograms


def _observe(
    model: onnx.ModelProto,
    chunk: Sequence[str],
    images: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    saved: State,
    done: Callable[[], None],
) -> list[CalibrationImage]:
    """Histogram `chunk` over all images, and return these images."""
    session = _session(model, chunk)
    shapes = {tensor.name: tuple(tensor.shape) for tensor in session.get_inputs()}
    of_bytes = {t.name for t in session.get_inputs() if t.type == "tensor(uint8)"}
    observed_images: list[CalibrationImage] = []
    for name, feed in images:
        whole = filled(session, feed)
        for key, array in whole.items():
            if array.shape != shapes[key] or (key in of_bytes) != (array.dtype == np.uint8):
                raise ShapeError(
                    f"calibration image {name!r}: {key}: got {array.dtype} {array.shape}, expected "
                    f"{shapes[key]}; convert it with `fit_frame`"
                )
        others = (array for key, array in feed.items() if key != IMAGE)
        observed_images.append(CalibrationImage(name=name, sha256=digest(feed[IMAGE][0], *others)))
        if not saved.has(chunk, observed_images):
            for tensor, value in zip(chunk, _run(session, chunk, whole), strict=True):
                if not np.isfinite(value).all():
                    raise BuildError(_broken(model, name, whole, tensor))
                saved.histograms.setdefault(tensor, Histogram()).update(value)
            saved.step(chunk, observed_images)
        done()
    return observed_images


def _session(model: onnx.ModelProto, names: Sequence[str]) -> Any:
    serialized = observed(model, names).SerializeToString()
    try:
        # No optimisation: which nodes ORT fuses depends on the requested tensors. Values would
        # differ between chunks in their last bits, and an observer's choice by several percent.
        # No arena: it would hold the largest amount of memory ever used until the session ends.
        return cpu_session(serialized, optimization="none", memory_arena=False, log_severity=4)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise _as_memory_error(error) from None


def _run(session: Any, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        values: list[np.ndarray] = session.run(list(names), feed)
    except Exception as error:
        raise _as_memory_error(error) from None
    return values


def _as_memory_error(error: Exception) -> Exception:
    text = str(error)
    is_memory = any(word in text for word in ("bad_alloc", "bad allocation", "Failed to allocate"))
    return MemoryError(text) if is_memory or isinstance(error, MemoryError) else error


def _bytes(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, int]:
    """Return the bytes of each tensor's values, and 64 MiB for a tensor of unknown shape."""
    inferred = onnx.shape_inference.infer_shapes(model)
    sizes = dict.fromkeys(names, 64 << 20)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        sides = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name in sizes and all(sides):
            sizes[value.name] = 4 * prod(sides)
    return sizes


def _chunks(names: Sequence[str], sizes: dict[str, int], most: int) -> list[list[str]]:
    """Split `names`, in order, into chunks of one tensor or of at most `most` bytes."""
    chunks: list[list[str]] = []
    held = 0
    for name in names:
        if not chunks or held + sizes[name] > most:
            chunks.append([])
            held = 0
        chunks[-1].append(name)
        held += sizes[name]
    return chunks


def _broken(
    model: onnx.ModelProto, image_name: str, feed: Mapping[str, np.ndarray], tensor: str
) -> str:
    """Return an error message with the first node that produces NaN or infinity."""
    floats = [(node, out) for node in model.graph.node for out in node.output if out]
    for start in range(0, len(floats), 16):  # all of them together would not fit into memory
        part = floats[start : start + 16]
        values = _run(_session(model, [o for _, o in part]), [o for _, o in part], feed)
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
    """Return the SHA-256 of the nodes and weights; metadata does not count."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def observed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return the part of `model` that `names` need, with these tensors as its outputs."""
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
    return onnx.helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
