"""A source of images as pieces: each is labelled by one worker, and becomes one output shard.

Files of images are put together, and a Parquet file is cut at its row groups. A tar file, a video
or a recording is one piece, because it has to be read from its beginning. The pieces depend on the
source alone, so that a run that was stopped finds the same ones again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from degmix_edge.capture import bag, video
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.extras import missing_package
from degmix_edge.preprocess import ENDINGS

Kind = Literal["images", "tar", "parquet", "video", "bag"]
TAR = (".tar", ".tar.gz", ".tgz")
PARQUET = (".parquet",)
PER_SHARD = 512
"""Images of one shard, where the source leaves the choice."""
_KINDS: dict[Kind, tuple[str, ...]] = {
    "images": ENDINGS,
    "tar": TAR,
    "parquet": PARQUET,
    "bag": bag.ENDINGS,
    "video": video.ENDINGS,
}


@dataclass(frozen=True)
class Piece:
    """Images that one worker labels, in order.

    Attributes:
        kind: How the files are read.
        files: Paths or URLs; only of `images` there may be several.
        root: What the names of images are relative to.
        groups: The first row group of a Parquet file, and the one behind the last.
        first: Position of the first image in its file.
        images: How many images there are; None is known only when they have been read.
    """

    kind: Kind
    files: tuple[str, ...]
    root: str
    groups: tuple[int, int] | None = None
    first: int = 0
    images: int | None = None

    def name_of(self, file: str) -> str:
        """Return a file's path below the root, which begins the names of its images."""
        return file.removeprefix(self.root).lstrip("/") or PurePosixPath(file).name

    def to_json(self) -> str:
        """Return the piece as text, which is equal for equal pieces."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Piece:
        """Return the piece that `to_json` wrote."""
        values = json.loads(text)
        groups = values["groups"]
        return cls(
            **{
                **values,
                "files": tuple(values["files"]),
                "groups": None if groups is None else tuple(groups),
            }
        )


def find_pieces(source: str, per_shard: int = PER_SHARD) -> list[Piece]:
    """Return the pieces of a source, in order.

    Args:
        source: A folder, a pattern such as `shots/*.tar`, or one file: images, WebDataset's tar
            files, Parquet files with a column of encoded images, MCAP files and other recordings,
            videos. It is a path, or a URL that fsspec knows, such as `s3://bucket/night/*.tar`.
        per_shard: Images of one piece, of files of images and of Parquet.

    Raises:
        InputError: There is no such source, or nothing in it that can be read.
        ConfigError: `per_shard` is out of range, or a package is missing.
    """
    if per_shard < 1:
        raise ConfigError(f"per_shard: got {per_shard}, expected at least 1 image")
    root, files = _files(source)
    pieces: list[Piece] = []
    images: list[str] = []
    for file, kind in files:
        if kind == "images":
            images.append(file)
        elif kind == "parquet":
            pieces += _of_parquet(file, root, per_shard)
        else:
            pieces.append(Piece(kind, (file,), root))
    starts = range(0, len(images), per_shard)
    chunks = [tuple(images[start : start + per_shard]) for start in starts]
    return [Piece("images", chunk, root, images=len(chunk)) for chunk in chunks] + pieces


def open_files(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a path or a URL, and the path in it.

    Raises:
        ConfigError: fsspec, or what it needs for this kind of URL, is not installed.
        InputError: The URL is of no kind that fsspec knows.
    """
    try:
        import fsspec
    except ImportError:
        raise missing_package("fsspec", "label", ConfigError) from None
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"{url}: {error}; install that package on every machine") from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    return files, path


def _files(source: str) -> tuple[str, list[tuple[str, Kind]]]:
    """The root, and every file that can be read with its kind, sorted by path."""
    fs, path = open_files(source)
    try:
        if fs.isdir(path) and fs.exists(f"{path}/metadata.yaml"):  # a bag of ROS 2
            return _parent(path), [(path, "bag")]
        if fs.isdir(path):
            root, found = path, fs.find(path)
        else:
            root = _fixed(path) if _is_pattern(path) else _parent(path)
            found = fs.glob(path) if _is_pattern(path) else [path]
            if not found or not (_is_pattern(path) or fs.exists(path)):
                raise InputError(f"{source}: no such file or folder")
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error}") from None
    kinds = [(file, _kind(file)) for file in sorted(found) if not _is_hidden(file, root)]
    known = [(_url(fs, file), kind) for file, kind in kinds if kind is not None]
    if not known:
        endings = ", ".join(ending for group in _KINDS.values() for ending in group)
        raise InputError(
            f"{source}: nothing to label among its {len(found)} files; looked for {endings}"
        )
    return _url(fs, root), known


def _of_parquet(file: str, root: str, per_shard: int) -> Iterator[Piece]:
    """Row groups of a file, put together; one piece of a file that cannot be read, to say so."""
    import pyarrow as pa

    try:
        with open_parquet(file) as opened:
            metadata = opened.metadata
            rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    except (pa.ArrowInvalid, OSError):
        yield Piece("parquet", (file,), root)
        return
    begin = first = count = 0
    for group, number in enumerate(rows):
        if count and count + number > per_shard:
            yield Piece("parquet", (file,), root, (begin, group), first, count)
            begin, first, count = group, first + count, 0
        count += number
    if count:
        yield Piece("parquet", (file,), root, (begin, len(rows)), first, count)


def open_parquet(file: str) -> Any:
    """Open a Parquet file of a path or a URL as pyarrow's `ParquetFile`."""
    import pyarrow.parquet as pq

    fs, path = open_files(file)
    return pq.ParquetFile(fs.open(path, "rb"))


def _kind(file: str) -> Kind | None:
    name = file.lower()
    return next((kind for kind, endings in _KINDS.items() if name.endswith(endings)), None)


def _is_hidden(file: str, root: str) -> bool:
    return any(part.startswith(".") for part in file.removeprefix(root).split("/"))


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _fixed(pattern: str) -> str:
    """The folder of a pattern up to its first sign."""
    parts: Sequence[str] = pattern.split("/")
    count = next(index for index, part in enumerate(parts) if _is_pattern(part))
    return "/".join(parts[:count])


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0]


def _url(fs: Any, path: str) -> str:
    """A path of a file system as `open_files` takes it."""
    return path if "file" in _protocols(fs) else str(fs.unstrip_protocol(path))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
