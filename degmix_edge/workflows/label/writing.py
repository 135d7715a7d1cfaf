"""The files of a shard: labels, bad images, latencies and, in the form of WebDataset, maps."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from degmix_edge.files import whole_file
from degmix_edge.runtime.saving import encode, encoding
from degmix_edge.tasks import TaskSpec
from degmix_edge.workflows.label.job import BAD, LABELS, LATENCY, MAPS, Job
from degmix_edge.workflows.label.labeller import Labelled, columns_of

ROWS = 128
"""Rows that are kept in memory before they are written."""


@dataclass(frozen=True)
class Receipt:
    """A shard that is finished.

    Attributes:
        number: Which one.
        images: How many images were labelled.
        bad: How many were set aside.
        sha256: By path below the output's folder, the files that two runs have in common.
        sizes: By path, the sizes of all files in bytes.
    """

    number: int
    images: int
    bad: int
    sha256: dict[str, str]
    sizes: dict[str, int]


class Writer:
    """Writes the rows of one shard. Its files appear at the end of the `with` block, or never.

    Args:
        job: The run.
        number: Which shard.
        tasks: The tasks whose maps are kept.

    Raises:
        OutputError: The disk is full, or a file cannot be written.
    """

    def __init__(self, job: Job, number: int, tasks: list[TaskSpec]) -> None:
        self.job, self.number, self.tasks = job, number, tasks
        self.images = self.bad = 0
        self._stack = ExitStack()
        self._rows: dict[str, list[dict[str, Any]]] = {LABELS: [], BAD: [], LATENCY: []}
        self._schemas = {LABELS: _labels(tasks, job), BAD: _bad(), LATENCY: _latency()}
        self._writers: dict[str, Any] = {}
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Writer:
        """Open the files."""
        import pyarrow.parquet as pq

        with self._stack:
            for name, schema in self._schemas.items():
                part = self._stack.enter_context(whole_file(self.job.path(name, self.number)))
                # Opened here, because pyarrow leaves its own files open when the disk is full.
                file = self._stack.enter_context(part.open("wb"))
                writer = pq.ParquetWriter(file, schema, compression="zstd")
                self._writers[name] = self._stack.enter_context(writer)
            if self.job.format == "webdataset":
                path = self.job.path(MAPS, self.number, ".tar")
                part = self._stack.enter_context(whole_file(path))
                self._tar = self._stack.enter_context(tarfile.open(part, "w"))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the files in place, or remove them after an error."""
        with self._stack:
            if error is None:
                self._flush()
            else:
                raise error

    def add(self, row: Labelled) -> None:
        """Write one row."""
        item = row.item
        known = {"name": item.name, "file": item.file, "index": item.index}
        if row.reason:
            self.bad += 1
            self._rows[BAD].append({**known, "reason": row.reason})
        else:
            self.images += 1
            height, width = row.size
            encoded = {task.name: encode(row.maps[task.name], task) for task in self.tasks}
            size = {"stamp_ns": item.stamp_ns, "height": height, "width": width}
            if self._tar is not None:
                self._add_to_tar({**known, **size, **row.summary}, encoded)
                encoded = {}
            self._rows[LABELS].append({**known, **size, **row.summary, **encoded})
            pre_ms, net_ms = row.latency_ms
            self._rows[LATENCY].append({"name": item.name, "pre_ms": pre_ms, "net_ms": net_ms})
        if len(self._rows[LABELS]) + len(self._rows[BAD]) >= ROWS:
            self._flush()

    def receipt(self) -> Receipt:
        """Return what was written, once the files are in place."""
        out = Path(self.job.out)
        paths = [self.job.path(name, self.number) for name in (LABELS, BAD, LATENCY)]
        if self._tar is not None:
            paths.append(self.job.path(MAPS, self.number, ".tar"))
        sizes = {str(path.relative_to(out)): path.stat().st_size for path in paths}
        hashes = {name: _sha256_of(out / name) for name in sizes if not name.startswith(LATENCY)}
        return Receipt(self.number, self.images, self.bad, hashes, sizes)

    def _flush(self) -> None:
        import pyarrow as pa

        for name, rows in self._rows.items():
            if rows:
                self._writers[name].write_table(pa.Table.from_pylist(rows, self._schemas[name]))
                rows.clear()

    def _add_to_tar(self, values: dict[str, Any], encoded: dict[str, bytes]) -> None:
        assert self._tar is not None
        key = f"{self.number:05}{self.images - 1:08}"
        text = json.dumps(values).encode()
        files = {f"{t.name}.{encoding(t)}": encoded[t.name] for t in self.tasks}
        for ending, content in {**files, "json": text}.items():
            member = tarfile.TarInfo(f"{key}.{ending}")
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))


def count_reasons(job: Job, shards: int) -> Counter[str]:
    """Return how many images were set aside for each reason, in the first `shards` shards."""
    import pyarrow.parquet as pq

    reasons: Counter[str] = Counter()
    for number in range(shards):
        table = pq.read_table(job.path(BAD, number), columns=["reason"])
        reasons.update(table.column("reason").to_pylist())
    return reasons


def _sha256_of(path: Path) -> str:
    """The SHA-256 of a file that may not fit into memory."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            whole.update(chunk)
    return whole.hexdigest()


def _labels(tasks: list[TaskSpec], job: Job) -> Any:
    """The schema of the labels. The metadata of a map's column has its task and its encoding."""
    import pyarrow as pa

    kinds = {"shares": pa.list_(pa.float64())}
    fields = [*_known(pa), pa.field("stamp_ns", pa.int64())]
    fields += [pa.field(name, pa.int32()) for name in ("height", "width")]
    fields += [pa.field("brightness", pa.float64()), pa.field("look", pa.list_(pa.float64()))]
    for task in tasks:
        for name in columns_of(task):
            fields.append(pa.field(f"{task.name}_{name}", kinds.get(name, pa.float64())))
    if job.format == "parquet":
        for task in tasks:
            about = {"task": task.model_dump_json(), "encoding": encoding(task)}
            fields.append(pa.field(task.name, pa.binary(), metadata=about))
    return pa.schema(fields)


def _bad() -> Any:
    import pyarrow as pa

    return pa.schema([*_known(pa), pa.field("reason", pa.string())])


def _latency() -> Any:
    import pyarrow as pa

    numbers = [pa.field(name, pa.float64()) for name in ("pre_ms", "net_ms")]
    return pa.schema([pa.field("name", pa.string()), *numbers])


def _known(pa: Any) -> list[Any]:
    """Columns that say which image a row is about."""
    kinds = {"name": pa.string(), "file": pa.string(), "index": pa.int64()}
    return [pa.field(name, kind) for name, kind in kinds.items()]
