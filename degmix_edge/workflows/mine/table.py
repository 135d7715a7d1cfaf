"""The labels of a run as a table of DuckDB, and what ranks its images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.errors import ConfigError, InputError, OutputError
from degmix_edge.extras import missing_package
from degmix_edge.runtime.saving import read_map
from degmix_edge.tasks import TaskSpec
from degmix_edge.workflows.label.job import LABELS, RECEIPTS, read_manifest

BATCH = 64
"""Rows of maps that are in memory at once."""


@dataclass(frozen=True)
class Chosen:
    """An image that was chosen.

    Attributes:
        name: Its name in the labels.
        file: The path or URL of its file.
        index: Its position in the file.
        score: What it was chosen by; larger is more so.
    """

    name: str
    file: str
    index: int
    score: float


class LabelTable:
    """The finished shards of an output of `label`. Use it with `with`.

    Args:
        folder: The output.

    Attributes:
        tasks: The tasks with their maps in columns; empty where the maps are in tar files.
        columns: The names of all columns.
        topic: The topic that a recording was read by.

    Raises:
        InputError: It is no output of `label`, or has no finished shard.
        ConfigError: DuckDB is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import duckdb
            import pyarrow.parquet as pq
        except ImportError as error:
            raise missing_package(error.name, "mine", ConfigError, "scale") from None
        self.folder = folder
        try:
            manifest = read_manifest(folder)
        except OutputError as error:
            raise InputError(str(error)) from None
        if manifest is None:
            raise InputError(f"{folder}: has no manifest.json, expected an output of `label`")
        numbers = sorted(path.stem for path in (folder / RECEIPTS).glob("part-*.json"))
        files = [str(folder / LABELS / f"{name}.parquet") for name in numbers]
        if not files:
            raise InputError(f"{folder}: has no finished shard; run the same `label` again")
        self.is_complete = bool(manifest.get("complete"))
        self.topic: str | None = manifest["run"]["topic"]
        schema = pq.read_schema(files[0])
        self.columns: list[str] = list(schema.names)
        about = [field.metadata or {} for field in schema]
        specs = [TaskSpec.model_validate_json(a[b"task"]) for a in about if b"task" in a]
        self.tasks = {task.name: task for task in specs}
        self._base: Any = duckdb.connect()
        self._base.read_parquet(files).create_view("labels")

    def __enter__(self) -> LabelTable:
        """Return the table, which is open since it was made."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self._base.close()

    def query(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the table `labels`."""
        rows: list[tuple[Any, ...]] = self._base.execute(text, list(values)).fetchall()
        return rows

    def attach(self, other: LabelTable) -> None:
        """Make the labels of another run the table `others`."""
        other_files = [str(path) for path in sorted((other.folder / LABELS).glob("part-*.parquet"))]
        self._base.read_parquet(other_files).create_view("others")

    def most_uncertain(self, k: int, tasks: Sequence[str]) -> list[Chosen]:
        """Return the images with the largest entropy, as the mean of their ranks by task.

        Raises:
            ConfigError: No task says how certain it is.
        """
        names = [n for n in tasks or self._tasks_with("entropy") if f"{n}_entropy" in self.columns]
        if not names:
            raise ConfigError(
                f"{self.folder}: no task says how certain it is; label with backend onnxruntime, "
                "or mine by novelty"
            )
        scores = {name: f'"{name}_entropy"' for name in names}
        return self._ranked("labels", scores, k)

    def most_disputed(self, other: LabelTable, k: int, tasks: Sequence[str]) -> list[Chosen]:
        """Return the images whose maps differ most from another run's, by the mean of their ranks.

        Raises:
            ConfigError: The two runs have no task's maps in common.
            InputError: They have no image in common, or do not differ at all.
        """
        import pyarrow as pa

        common = [n for n in tasks or self.tasks if self.tasks.get(n) == other.tasks.get(n)]
        common = [name for name in common if name in self.tasks]
        if not common:
            raise ConfigError(
                f"{self.folder} and {other.folder}: have no maps of a task in common; label with "
                "the same tasks, and with --format parquet"
            )
        self.attach(other)
        rows = list(self._differences(common))
        if not rows:
            raise InputError(f"{self.folder} and {other.folder}: have no image in common")
        rows = [row for row in rows if any(row[name] for name in common)]
        if not rows:
            raise InputError(f"{self.folder} and {other.folder}: have equal maps of every image")
        self._base.register("differences", pa.Table.from_pylist(rows))
        return self._ranked("differences", {name: f'"{name}"' for name in common}, k)

    def looks(self) -> tuple[list[tuple[Any, ...]], np.ndarray]:
        """Return name, file and index of each image, and the eight numbers of its look."""
        rows = self.query('SELECT name, file, "index", look FROM labels ORDER BY name, "index"')
        return [row[:3] for row in rows], np.array([row[3] for row in rows], np.float64)

    def maps_of(self, chosen: Chosen) -> dict[str, np.ndarray]:
        """Return the maps of an image by task."""
        names = ", ".join(f'"{name}"' for name in self.tasks)
        text = f'SELECT {names} FROM labels WHERE name = ? AND "index" = ?'
        if not self.tasks or not (rows := self.query(text, (chosen.name, chosen.index))):
            return {}
        pairs = zip(self.tasks.items(), rows[0], strict=True)
        return {name: read_map(data, task) for (name, task), data in pairs}

    def _tasks_with(self, number: str) -> list[str]:
        ending = f"_{number}"
        return [name.removesuffix(ending) for name in self.columns if name.endswith(ending)]

    def _ranked(self, source: str, scores: dict[str, str], k: int) -> list[Chosen]:
        """The first rows by the mean of their ranks, each from 0 to 1; a null does not count."""
        ranks = [
            f"CASE WHEN {value} IS NULL THEN NULL ELSE percent_rank() OVER "
            f'(ORDER BY {value} NULLS FIRST) END AS "rank_{name}"'
            for name, value in scores.items()
        ]
        columns = ", ".join(f'"rank_{name}"' for name in scores)
        mean = f"list_avg([{columns}])"
        inner = f'SELECT name, file, "index", {", ".join(ranks)} FROM {source}'
        text = f'SELECT name, file, "index", {mean} AS score FROM ({inner}) WHERE score IS NOT NULL'
        rows = self.query(f'{text} ORDER BY score DESC, name, "index" LIMIT ?', (k,))
        return [Chosen(*row) for row in rows]

    def _differences(self, tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
        sides = ", ".join(f'a."{name}", b."{name}"' for name in tasks)
        result = self._base.execute(
            f'SELECT a.name, a.file, a."index", {sides} FROM labels a JOIN others b ON '
            'a.name = b.name AND a."index" = b."index" ORDER BY a.name, a."index"'
        )
        while rows := result.fetchmany(BATCH):
            for name, file, index, *maps in rows:
                row: dict[str, Any] = {"name": name, "file": file, "index": index}
                for place, task in enumerate(tasks):
                    a, b = (read_map(data, self.tasks[task]) for data in maps[2 * place :][:2])
                    row[task] = difference(a, b, self.tasks[task])
                yield row


def difference(a: np.ndarray, b: np.ndarray, task: TaskSpec) -> float:
    """Return how much two maps of a task differ, from 0.

    It is the share of pixels of other classes; of unit vectors the mean angle as a fraction of 180
    degrees; of other numbers the mean absolute difference as a fraction of the mean magnitude.
    Maps of different sizes differ entirely, which is 1.
    """
    if a.shape != b.shape:
        return 1.0
    if task.has_labels:
        return float(np.mean(a != b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    if task.decode == "unit_vector":
        a, b = (v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9) for v in (a, b))
        # Kahan's formula, as in `metrics.mean_angle`: equal vectors give exactly 0.
        sides = np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)
        return float(np.mean(2 * np.arctan2(*sides)) / np.pi)
    whole = np.mean((np.abs(a) + np.abs(b)) / 2)
    return float(np.mean(np.abs(a - b)) / whole) if whole else 0.0


def manifest_bundle(folder: Path) -> str:
    """Return the first digits of the digest of the bundle that labelled."""
    digest: str = json.loads((folder / "manifest.json").read_text())["run"]["digest"]
    return digest[:8]
