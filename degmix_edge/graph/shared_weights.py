"""Weights of several ONNX files in one file beside them, in which equal ones lie once.

The files refer to it by ONNX's external data, so other programs read them where they lie. Before we
run one its weights are put back, from bytes that were checked, so nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from degmix_edge.errors import GraphError
from degmix_edge.graph.protobuf import fields, heading, text, whole_number
from degmix_edge.limits import check_limit

ALIGNMENT = 64
"""Bytes: the offset of every tensor is a multiple, as vector instructions like it."""
SMALLEST = 128
"""Bytes: smaller tensors stay in their files. To refer to one takes about 60 bytes, and ONNX
Runtime reads values of small ones, such as shapes, while it loads a graph."""

_GRAPH, _INITIALIZER = 7, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_OUTSIDE = {_EXTERNAL_DATA, _DATA_LOCATION}
_KEY, _VALUE = 1, 2
_EXTERNAL = 1
_KEYS = ("location", "offset", "length")


def share_weights(models: Mapping[str, bytes], location: str) -> tuple[dict[str, bytes], bytes]:
    """Move the weights of ONNX files to one file.

    Args:
        models: The bytes of each file, by any name.
        location: How the models call the new file: its path from theirs.

    Returns:
        The models by the same names, and the bytes of the new file.
    """
    offsets: dict[bytes, int] = {}
    weights = bytearray()

    def moved(tensor: memoryview) -> list[bytes | memoryview]:
        own = list(fields(tensor))
        raw = [value for number, value, _ in own if number == _RAW_DATA]
        if len(raw) != 1 or not isinstance(raw[0], memoryview) or len(raw[0]) < SMALLEST:
            return [tensor]
        numbers = [number for number, _, _ in own]
        if numbers != sorted(numbers) or _OUTSIDE.intersection(numbers):
            return [tensor]  # the same bytes could not be written again
        content = bytes(raw[0])
        if content not in offsets:
            weights.extend(bytes(-len(weights) % ALIGNMENT))
            offsets[content] = len(weights)
            weights.extend(content)
        entries = (location, offsets[content], len(content))
        return [
            *(whole for number, _, whole in own if number != _RAW_DATA),
            *(_entry(key, str(value)) for key, value in zip(_KEYS, entries, strict=True)),
            whole_number(_DATA_LOCATION, _EXTERNAL),
        ]

    return {name: _with_initializers(data, moved) for name, data in models.items()}, bytes(weights)


def put_weights_back(model: bytes, weights: bytes, location: str, where: str) -> bytes:
    """Return an ONNX file with the weights inside that `share_weights` moved out of it.

    The result has the same bytes as the file had before.

    Args:
        model: The bytes of the file.
        weights: The bytes of the file with the weights.
        location: How the model calls that file; it may refer to no other.
        where: The name of the model's file, for error messages.

    Raises:
        GraphError: The bytes are no ONNX model, or a tensor lies somewhere else.
    """
    data, total = memoryview(weights), 0

    def put_back(tensor: memoryview) -> list[bytes | memoryview]:
        nonlocal total
        own = list(fields(tensor))
        if not any(number in _OUTSIDE and value for number, value, _ in own):
            return [tensor]
        if any(number == _RAW_DATA for number, _, _ in own):
            raise GraphError(f"{where}: a tensor with two values, inside the model and outside")
        entries = [value for number, value, _ in own if number == _EXTERNAL_DATA]
        start, size = _place(entries, len(weights), location, where)
        total += size
        check_limit("file_bytes", total, f"{where}: its weights", GraphError)
        before = [whole for number, _, whole in own if number < _RAW_DATA]
        after = [whole for n, _, whole in own if n > _RAW_DATA and n not in _OUTSIDE]
        return [*before, heading(_RAW_DATA, size), data[start : start + size], *after]

    try:
        return _with_initializers(model, put_back)
    except (IndexError, ValueError):
        raise GraphError(f"{where}: not a readable ONNX model; copy it again, whole") from None


Change = Callable[[memoryview], list[bytes | memoryview]]


def _with_initializers(model: bytes, change: Change) -> bytes:
    """A serialized model in which `change` gives each initializer of its graph, in pieces."""
    pieces: list[bytes | memoryview] = []
    for number, value, whole in fields(memoryview(model)):
        if number != _GRAPH or not isinstance(value, memoryview):
            pieces.append(whole)
            continue
        graph: list[bytes | memoryview] = []
        for inner, tensor, own in fields(value):
            if inner != _INITIALIZER or not isinstance(tensor, memoryview):
                graph.append(own)
                continue
            changed = change(tensor)
            graph += [heading(_INITIALIZER, sum(map(len, changed))), *changed]
        pieces += [heading(_GRAPH, sum(map(len, graph))), *graph]
    return b"".join(pieces)


def _entry(key: str, value: str) -> bytes:
    """One field of external data."""
    return text(_EXTERNAL_DATA, text(_KEY, key.encode()) + text(_VALUE, value.encode()))


def _place(
    entries: list[int | memoryview], total: int, location: str, where: str
) -> tuple[int, int]:
    """Offset and length of a tensor in the weights, of which there are `total` bytes.

    Raises:
        GraphError: It lies in another file, or not inside this one.
    """
    values: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, memoryview):
            raise ValueError("external data without a key")
        pair = {n: bytes(v).decode() for n, v, _ in fields(entry) if isinstance(v, memoryview)}
        values[pair.get(_KEY, "")] = pair.get(_VALUE, "")
    if values.get("location") != location:
        raise GraphError(
            f"{where}: a tensor lies in {values.get('location')!r}, expected all in {location}"
        )
    numbers = [values.get(key, "") for key in _KEYS[1:]]
    are_plain = all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers)
    if set(values) != set(_KEYS) or len(entries) != len(_KEYS) or not are_plain:
        raise GraphError(f"{where}: a tensor in {location} without one offset and one length")
    start, size = map(int, numbers)
    if start + size > total:
        raise GraphError(
            f"{where}: a tensor at {start} to {start + size} of {location}, which has {total} "
            "bytes; copy the bundle again, whole"
        )
    return start, size
