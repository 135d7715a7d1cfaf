"""The file from which an interrupted calibration resumes; it is rewritten every few seconds."""

from __future__ import annotations

import copy
import io
import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from degmix_calibration.histogram import Histogram
from degmix_edge.files import write_file
from degmix_edge.quant.ranges import CalibrationImage

SECONDS = 5.0
"""Time between two writes, which is the most work that an interruption can lose."""


class Changed(Exception):  # noqa: N818
    """The saved state belongs to other images."""


class State:
    """The histograms of the finished chunks and of the current one.

    Args:
        path: The file; None saves nothing.
        key: Identifies graph and tensors; a file with another key is ignored.

    Attributes:
        finished: Tensors that were observed on every image.
        images: The images of the last finished chunk.
        snapshots: Histograms after 1, 2, 4 ... images.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.histograms: dict[str, Histogram] = {}
        self.snapshots: dict[int, dict[str, Histogram]] = {}
        self.finished: set[str] = set()
        self.images: list[CalibrationImage] = []
        self._chunk: list[str] = []
        self._seen: list[CalibrationImage] = []
        self._written = time.monotonic()
        if path is not None and path.is_file():
            self._read(path)

    @property
    def begun(self) -> list[str]:
        """The tensors of the current chunk, which were observed on some images."""
        return list(self._chunk)

    def has(self, chunk: Sequence[str], seen: Sequence[CalibrationImage]) -> bool:
        """Return whether `chunk` was already observed on the images `seen`.

        Raises:
            Changed: The images differ from the saved ones, so the saved state cannot be used.
        """
        before = self.images or self._seen
        if list(seen) != before[: len(seen)] and len(seen) <= len(before):
            raise Changed
        return list(chunk) == self._chunk and len(seen) <= len(self._seen)

    def step(self, chunk: Sequence[str], seen: Sequence[CalibrationImage]) -> None:
        """Record that `chunk` was observed on one more image, the last of `seen`."""
        self._chunk, self._seen = list(chunk), list(seen)
        if len(seen) & (len(seen) - 1) == 0:  # a power of two
            snapshot = self.snapshots.setdefault(len(seen), {})
            snapshot.update({name: copy.copy(self.histograms[name]) for name in chunk})
            for name in chunk:
                snapshot[name].counts = snapshot[name].counts.copy()
        if time.monotonic() - self._written > SECONDS:
            self._write()

    def finish(
        self, chunk: Sequence[str], images: Sequence[CalibrationImage], *, is_last: bool = False
    ) -> None:
        """Record that `chunk` was observed on every image.

        Args:
            chunk: Names of its tensors.
            images: All images.
            is_last: No chunk is left, so that the file would be deleted at once and is not written.
        """
        self.finished.update(chunk)
        self.images = list(images)
        self._chunk, self._seen = [], []
        if not is_last:
            self._write()

    def drop(self, chunk: Sequence[str]) -> None:
        """Forget the histograms of `chunk`."""
        for name in chunk:
            self.histograms.pop(name, None)
            for snapshot in self.snapshots.values():
                snapshot.pop(name, None)
        self._chunk, self._seen = [], []

    def clear(self) -> None:
        """Forget everything."""
        self.histograms, self.snapshots = {}, {}
        self.finished, self.images = set(), []
        self._chunk, self._seen = [], []

    def remove(self) -> None:
        """Delete the file, because the collection is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._written = time.monotonic()
        if self.path is None:
            return
        arrays: dict[str, np.ndarray] = {}
        meta = {
            "key": self.key,
            "finished": sorted(self.finished),
            "images": [image.model_dump() for image in self.images],
            "chunk": self._chunk,
            "seen": [image.model_dump() for image in self._seen],
        }
        for count, histograms in {0: self.histograms, **self.snapshots}.items():
            for name, histogram in histograms.items():
                extremes = [histogram.limit, histogram.low, histogram.high]
                arrays[f"{count}|c|{name}"] = histogram.counts
                arrays[f"{count}|x|{name}"] = np.array(extremes)
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_file(self.path, buffer.getvalue(), force=True)

    def _read(self, path: Path) -> None:
        """Load the file, and ignore it if it is damaged or has another key."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            meta = json.loads(arrays.pop("meta").tobytes())
            if meta["key"] != self.key:
                return
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return
        self.finished = set(meta["finished"])
        self.images = [CalibrationImage(**values) for values in meta["images"]]
        self._chunk = meta["chunk"]
        self._seen = [CalibrationImage(**values) for values in meta["seen"]]
        for name, counts in arrays.items():
            count, kind, tensor = name.split("|", 2)
            if kind != "c":
                continue
            histogram = Histogram()
            histogram.counts = counts
            limit, low, high = map(float, arrays[f"{count}|x|{tensor}"])
            histogram.limit, histogram.low, histogram.high = limit, low, high
            target = self.snapshots.setdefault(int(count), {}) if int(count) else self.histograms
            target[tensor] = histogram
