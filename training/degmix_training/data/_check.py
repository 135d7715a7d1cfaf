"""What is wrong with a data set's folder or archive, in numbers and in words."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from degmix_edge.errors import DegmixError, InputError
from degmix_training.data import find, names
from degmix_training.data._disk import DiskDataSet

SHOWN = 3
"""Names in one finding."""


@dataclass
class Row:
    """Counts of one split's images, or of one task's labels.

    Attributes:
        expected: Files that there should be.
        missing, bad: Ids whose file is not there, or has something wrong.
        low, high: Range of the values that count; None where there are none.
        invalid: Share of pixels that are marked as not valid.
    """

    split: str
    what: str
    expected: int
    found: int = 0
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    low: float | None = None
    high: float | None = None
    invalid: float = 0.0

    def cells(self) -> list[str]:
        """Return the row as people read it, without the ids."""
        values = "" if self.low is None else f"{self.low:.4g} .. {self.high:.4g}"
        invalid = "" if self.what == "images" else f"{100 * self.invalid:.1f} %"
        counts = [self.expected, self.found, len(self.missing), len(self.bad)]
        return [self.split, self.what, *(str(count) for count in counts), values, invalid]


@dataclass
class Report:
    """Every row, and what is wrong in words; `findings` empty is a good data set."""

    name: str
    title: str
    rows: list[Row]
    findings: list[str]
    notes: list[str]


def detect(root: Path) -> DiskDataSet:
    """The data set whose layout `root` has.

    Raises:
        InputError: None has it; says why each of those that come near does not.
    """
    if not root.exists():
        raise InputError(f"{root}: no such folder or archive")
    signs = {
        "cityscapes": "leftImg8bit",
        "pascal_context": "JPEGImages",
        "nyud": "gt_sets",
        "folder": "train/images",
    }
    for name, sign in signs.items():
        if (root / sign).exists():
            found: DiskDataSet = find(name).DataSet(root)
            return found
    if root.is_dir():
        for inside in sorted(path for path in root.iterdir() if path.is_dir()):
            if any((inside / sign).exists() for sign in signs.values()):
                raise InputError(f"{root}: no data set itself. Did you mean {inside}?")
    have = ", ".join(sorted(p.name for p in root.iterdir())[:6]) if root.is_dir() else "a file"
    raise InputError(
        f"{root}: has the layout of no known data set (found {have or 'nothing'}); expected "
        + ", ".join(f"{sign}/ ({name})" for name, sign in signs.items())
        + f". Known: {', '.join(n for n in names() if not n.startswith('synthetic'))}"
    )


def check(source: DiskDataSet, advance: Callable[[int], None] = lambda n: None) -> Report:
    """Read every file of every split and task; `advance(n)` reports files done."""
    rows, findings, notes = [], [], []
    sizes: dict[tuple[int, int], int] = {}
    for split in source.splits():
        ids = source.ids(split)
        known = source.expected.get(split)
        if known is not None and len(ids) != known:
            findings.append(
                f"{split}: its list has {len(ids)} ids, {source.title} has {known}: a part of the "
                f"data set, or another list"
            )
        rows += _check_split(source, split, ids, findings, sizes=sizes, advance=advance)
    findings += [
        f"{split}: the split's list or folder is missing"
        for split in source.expected
        if split not in source.splits()
    ]
    if len(sizes) == 1 and source.size and source.name == "nyud" and source.size not in sizes:
        height, width = next(iter(sizes))
        notes.append(
            f"images are {height}x{width}, those of this layout were published as "
            f"{source.size[0]}x{source.size[1]}: numbers will not compare with published ones"
        )
    if len(sizes) > 1 and source.name == "nyud":
        text = ", ".join(f"{count} of {h}x{w}" for (h, w), count in sizes.items())
        findings.append(f"images have mixed sizes ({text}), expected one: two layouts are mixed")
    if source.name == "pascal_context" and not getattr(source, "indoor", []):
        notes.append(
            "pascal-context/labels.txt is missing: normals are kept for all classes, not only for "
            "those that NYUD-v2 has, as the published recipe keeps them"
        )
    return Report(source.name, source.title, rows, findings, notes)


def _check_split(
    source: DiskDataSet,
    split: str,
    ids: list[str],
    findings: list[str],
    *,
    sizes: dict[tuple[int, int], int],
    advance: Callable[[int], None],
) -> list[Row]:
    rows = {what: Row(split, what, len(ids)) for what in ("images", *source.labels)}
    invalid = dict.fromkeys(source.labels, 0.0)

    def read(sample: str) -> tuple[str, dict[str, np.ndarray | str | None]]:
        """By kind: the array, what is wrong in words, or None where the file is missing."""
        found: dict[str, np.ndarray | str | None] = {}
        size = None
        for what in rows:
            is_image = what == "images"
            path = source.image_path(sample) if is_image else source.label_path(what, sample)
            if not path.is_file():
                found[what] = None
                continue
            try:
                if is_image:
                    image = source.read_image(sample)
                    found[what], size = image, (image.shape[0], image.shape[1])
                elif size is not None:
                    found[what] = source.read_label(what, sample, size)
                else:
                    found[what] = source.labels[what].read(path)
            except DegmixError as error:
                found[what] = str(error)
        return sample, found

    with ThreadPoolExecutor() as pool:
        for sample, found in pool.map(read, ids):
            for what, row in rows.items():
                value = found[what]
                if value is None:
                    row.missing.append(sample)
                    continue
                row.found += 1
                if isinstance(value, str):
                    row.bad.append(sample)
                    if len(row.bad) <= SHOWN:
                        findings.append(value)
                elif what == "images":
                    size = value.shape[0], value.shape[1]
                    sizes[size] = sizes.get(size, 0) + 1
                else:
                    invalid[what] += _count_values(row, what, value)
            advance(1)
    for what, row in rows.items():
        good = row.found - len(row.bad)
        row.invalid = invalid[what] / good if good and what in invalid else 0.0
        findings += _words(row)
        if good and what in invalid and row.low is None:
            findings.append(f"{split} {what}: no label has a single valid pixel")
    return list(rows.values())


def _count_values(row: Row, task: str, label: np.ndarray) -> float:
    """Widen the row's range; the share of pixels that are not valid."""
    if task == "normals":
        valid = np.abs(label).sum(-1) > 0
    else:
        valid = label > 0 if task == "depth" else label != 255
    values = label[valid]
    if values.size:
        row.low = min(float(values.min()), row.low if row.low is not None else np.inf)
        row.high = max(float(values.max()), row.high if row.high is not None else -np.inf)
    return float(1 - valid.mean())


def _words(row: Row) -> Iterator[str]:
    if row.missing:
        first = ", ".join(row.missing[:SHOWN])
        # An archive is cut off at its end: what is missing then is one run of names.
        cause = (
            "the folder is missing or empty: was its archive unpacked here?"
            if not row.found
            else "the archive was probably cut off, or not unpacked to its end: compare its size "
            "with the source's, download and unpack again"
        )
        yield (
            f"{row.split} {row.what}: {row.found} of {row.expected} files; missing {first}"
            f"{', ...' if len(row.missing) > SHOWN else ''}: {cause}"
        )
    if len(row.bad) > SHOWN:
        yield f"{row.split} {row.what}: {len(row.bad)} files in all have something wrong"


def check_archive(path: Path, advance: Callable[[int], None] = lambda n: None) -> int:
    """Read an archive to its end without unpacking it; the number of its files.

    Raises:
        InputError: It is no archive, cut off, or damaged; says where.
    """
    count, last = 0, "its start"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    with archive.open(member) as stream:
                        while stream.read(1 << 20):
                            pass
                    count, last = count + 1, member.filename
                    advance(1)
            return count
        with tarfile.open(path, "r|*") as archive:
            for entry in archive:
                stream = archive.extractfile(entry) if entry.isfile() else None
                left = entry.size
                while stream and (block := stream.read(1 << 20)):
                    left -= len(block)
                if stream and left:
                    raise EOFError(f"{left} bytes short")
                count, last = count + entry.isfile(), entry.name
                advance(1)
    except (EOFError, zlib.error, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        if not count:
            raise InputError(
                f"{path}: no archive that can be read ({error}); expected .tar, .tar.gz or .zip: "
                f"was an HTML page saved in its place?"
            ) from None
        raise InputError(
            f"{path}: cut off or damaged after {count} files (last whole one: {last}): {error}. "
            f"Compare its size with the source's and download it again"
        ) from None
    return count
