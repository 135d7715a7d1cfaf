"""The wire format of protobuf, in which ONNX files are written, without the `onnx` package.

A message is a list of fields. Each has a number, which onnx.proto3 gives a meaning, and a value,
which is a whole number or bytes. A message inside a message is bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: Which field it is.
        value: A whole number, or the bytes.
        whole: All bytes of the field, with its number and its length.
    """

    number: int
    value: int | memoryview
    whole: memoryview


def fields(data: memoryview) -> Iterator[Field]:
    """Iterate over the fields of a message, in order.

    Raises:
        IndexError, ValueError: The bytes are no message.
    """
    position, end = 0, len(data)
    while position < end:
        start = position
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield Field(number, value, data[start:position])
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > end:
            raise ValueError("cut off")
        content = data[position : position + size]
        position += size
        yield Field(number, content, data[start:position])


def whole_number(number: int, value: int) -> bytes:
    """Return a field with a whole number of at least 0."""
    return _written(number << 3 | _VARINT) + _written(value)


def heading(number: int, size: int) -> bytes:
    """Return what stands in a field before its `size` bytes."""
    return _written(number << 3 | _BYTES) + _written(size)


def text(number: int, value: bytes) -> bytes:
    """Return a field with bytes."""
    return heading(number, len(value)) + value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _written(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
