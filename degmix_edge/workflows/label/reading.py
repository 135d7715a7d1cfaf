"""Read the images of a piece one after the other; what cannot be read comes with its reason."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.camera import to_rgb
from degmix_edge.capture import SourceOptions, open_source
from degmix_edge.errors import DegmixError, InputError, SourceError
from degmix_edge.preprocess import ENDINGS
from degmix_edge.workflows.label.pieces import Piece, open_files, open_parquet

COLUMNS = ("image", "jpg", "jpeg", "png", "bytes", "image_bytes")
"""Columns of a Parquet file that hold the images, of which the first that is there is taken."""
_BLOCK = 512
"""Bytes of a block of a tar file; two empty ones end it."""


@dataclass(frozen=True)
class Item:
    """An image of a source.

    Attributes:
        name: The name by which it is found again; no two images of a source share one.
        file: The path or URL of its file.
        index: Its position in the file.
        image: The bytes of an image file, or uint8 RGB `(H, W, 3)`; None where it is bad.
        stamp_ns: When it was taken, in nanoseconds, where the file says so.
        reason: Why it is bad.
    """

    name: str
    file: str
    index: int
    image: bytes | np.ndarray | None
    stamp_ns: int | None = None
    reason: str = ""


def read_piece(piece: Piece, topic: str | None = None) -> Iterator[Item]:
    """Give the images of a piece in order. Whatever is wrong with a file becomes a bad item.

    Args:
        piece: The piece.
        topic: The topic with the images, of a recording with several.

    Raises:
        ConfigError: A package that this kind of file needs is not installed, or an option does not
            fit it.
    """
    if piece.kind == "images":
        yield from map(lambda file: _file(piece, file), piece.files)
        return
    (file,) = piece.files
    count = piece.first
    readers = {"tar": _tar, "parquet": _parquet, "video": _frames, "bag": _frames}
    try:
        for item in readers[piece.kind](piece, file, topic):
            count = item.index + 1
            yield item
    except (OSError, EOFError, tarfile.TarError, InputError, SourceError, ValueError) as error:
        # pyarrow's errors are OSError and ValueError; so are those of decompressors.
        name = f"{piece.name_of(file)}#{count}"
        reason = f"cannot be read from here on: {_text(error)}"
        yield Item(name, file, count, None, reason=reason)


def _file(piece: Piece, file: str) -> Item:
    fs, path = open_files(file)
    stem = Path(path).stem
    stamp = int(stem) if stem.isdigit() and 16 <= len(stem) <= 19 else None
    try:
        return Item(piece.name_of(file), file, 0, fs.cat_file(path), stamp)
    except OSError as error:
        return Item(piece.name_of(file), file, 0, None, stamp, f"cannot be read: {_text(error)}")


def _tar(piece: Piece, file: str, _: str | None) -> Iterator[Item]:
    fs, path = open_files(file)
    index = 0
    with fs.open(path, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as archive:
        for member in archive:
            if not (member.isfile() and member.name.lower().endswith(ENDINGS)):
                continue
            content = archive.extractfile(member)
            assert content is not None  # it is a file
            name = f"{piece.name_of(file)}/{member.name}"
            yield Item(name, file, index, content.read())
            index += 1
    if file.endswith(".tar") and fs.tail(path, _BLOCK).strip(b"\0"):
        raise EOFError("the archive has no end mark, so it was cut off")


def _parquet(piece: Piece, file: str, _: str | None) -> Iterator[Item]:
    index = piece.first
    with open_parquet(file) as opened:
        column = _column(opened.schema_arrow, file)
        groups = range(*(piece.groups or (0, opened.metadata.num_row_groups)))
        for batch in opened.iter_batches(64, row_groups=list(groups), columns=[column]):
            for value in batch.column(0).to_pylist():
                image = value.get("bytes") if isinstance(value, dict) else value
                name = f"{piece.name_of(file)}#{index}"
                yield Item(name, file, index, image, reason="" if image else "no image in this row")
                index += 1


def _column(schema: Any, file: str) -> str:
    """The column that holds encoded images: bytes, or a struct that has them as `bytes`.

    Raises:
        InputError: There is none, or several that could be meant.
    """
    import pyarrow.types as kinds

    def holds_bytes(kind: Any) -> bool:
        if kinds.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    have = [field.name for field in schema if holds_bytes(field.type)]
    named = [name for name in COLUMNS if name in have]
    if not named and len(have) != 1:
        raise InputError(
            f"{file}: has {len(have)} columns of bytes ({', '.join(have) or 'none'}), expected one "
            f"that is called {' or '.join(COLUMNS)}"
        )
    return (named or have)[0]


def _frames(piece: Piece, file: str, topic: str | None) -> Iterator[Item]:
    with _local(file) as path:
        options = SourceOptions(replay="fast", topic=topic if piece.kind == "bag" else None)
        source = open_source(path, options)
        stop = threading.Event()
        index = 0
        try:
            source.open()
            while True:
                name = f"{piece.name_of(file)}#{index}"
                try:
                    frame = source.read(stop)
                except SourceError as error:
                    yield Item(name, file, index, None, reason=_text(error, path, file))
                    index += 1
                    continue
                if frame is None:
                    return
                if frame.lost:
                    reason = f"{frame.lost} frames before this one cannot be decoded"
                    yield Item(f"{name}-lost", file, index, None, reason=reason)
                try:
                    image = to_rgb(np.asarray(frame.image), frame.format)
                    yield Item(name, file, index, image, frame.stamp_ns)
                except InputError as error:
                    yield Item(name, file, index, None, frame.stamp_ns, _text(error))
                index += 1
        finally:
            source.close()


@contextlib.contextmanager
def _local(file: str) -> Iterator[str]:
    """The path of a file on this machine; a copy of one that is elsewhere."""
    fs, path = open_files(file)
    if path == file:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        fs.get(path, str(copy), recursive=True)
        yield str(copy)


def _text(error: Exception, path: str = "", file: str = "") -> str:
    """One line, which is the same on every machine and in every attempt."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if isinstance(error, DegmixError) and path and path != file:
        line = line.replace(path, file)
    return line
