"""Data sets in a folder: files found by id, read when they are asked for, checked as they are read.

What a label file may hold is written once, here, and `_check.py` reports it for a whole folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL
import PIL.Image

from degmix_edge.errors import ConfigError, InputError
from degmix_edge.registry import unknown
from degmix_training.data._base import SPLITS, DataSet
from degmix_training.data._sample import Sample, Samples

IGNORE = 255
BINARY = ("saliency", "edge")


@dataclass(frozen=True)
class LabelFile:
    """Where a task's labels lie, and how one is read.

    Attributes:
        path: Relative to the root; `{id}` is the sample's.
        read: A file as a label in `Sample`'s conventions.
    """

    path: str
    read: Callable[[Path], np.ndarray]

    @property
    def folder(self) -> str:
        """Folder of all labels of the task."""
        return self.path.split("{id}", 1)[0].rstrip("/")


class DiskDataSet(DataSet):
    """Images and labels in files.

    Attributes:
        image: Path of an image, with `{id}`.
        labels: Label files by task.
        expected: Samples of each split of the published set; empty where anyone's folder will do.
    """

    image: str
    labels: dict[str, LabelFile]
    expected: ClassVar[dict[str, int]] = {}

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected the root of {self.title}")

    @abstractmethod
    def ids(self, split: str) -> list[str]:
        """Ids of a split, in order."""

    @abstractmethod
    def splits(self) -> list[str]:
        """Splits that the folder has."""

    def image_path(self, sample: str) -> Path:
        """The image of sample id."""
        return self.root / self.image.format(id=sample)

    def label_path(self, task: str, sample: str) -> Path:
        """A label of sample id."""
        return self.root / self.labels[task].path.format(id=sample)

    def open_split(self, split: str, tasks: Sequence[str], count: int | None = None) -> Samples:
        if split not in self.splits():
            raise ConfigError(f"{self.root}: " + unknown("split", split, self.splits()))
        for task in tasks:
            if task not in self.labels:
                raise ConfigError(
                    f"{self.title} in {self.root} has no labels for task {task!r}; it has "
                    f"{', '.join(self.labels) or 'none'}"
                )
            folder = self.root / self.labels[task].folder.format(split=split)
            if not folder.is_dir():
                raise ConfigError(
                    f"task {task!r}: its label folder {folder} is missing; unpack it there, or "
                    f"leave the task out"
                )
        ids = self.ids(split)
        if not ids:
            raise InputError(f"{self.root}: split {split!r} has no images")
        return _Listed(self, tuple(ids[:count]), tuple(tasks))

    def read_image(self, sample: str) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB."""
        return np.array(_open(self.image_path(sample)).convert("RGB"))

    def read_label(self, task: str, sample: str, size: tuple[int, int]) -> np.ndarray:
        """One label, checked against its image's `(H, W)` and the task's classes.

        Raises:
            InputError: Names the file, what is in it, and what was expected.
        """
        path = self.label_path(task, sample)
        if not path.is_file():
            raise InputError(f"{path}: missing, the {task} label of {self.image_path(sample)}")
        label = self.labels[task].read(path)
        if label.shape[:2] != size:
            raise InputError(
                f"{path}: is {label.shape[0]}x{label.shape[1]} pixels and its image "
                f"{self.image_path(sample)} {size[0]}x{size[1]}; expected one size"
            )
        check_values(task, label, len(self.classes[task]), path)
        return label


@dataclass(frozen=True)
class _Listed(Samples):
    source: DiskDataSet
    names: tuple[str, ...]
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        name = self.names[index]
        image = self.source.read_image(name)
        size = image.shape[0], image.shape[1]
        labels = {task: self.source.read_label(task, name, size) for task in self.tasks}
        return Sample(name, image, labels)


def check_values(task: str, label: np.ndarray, num_classes: int, path: Path) -> None:
    """Raise InputError where a value cannot be a label of `task`; see `Sample`."""
    if task == "depth":
        bad = label[~np.isfinite(label) | (label < 0)]
        if bad.size:
            raise InputError(
                f"{path}: depth value {bad[0]}, expected metres, 0 or more (0 is invalid)"
            )
    elif task == "normals":
        if label.ndim != 3 or label.shape[2] != 3 or not np.isfinite(label).all():
            raise InputError(f"{path}: normals {label.shape}, expected finite (H, W, 3)")
    else:
        most = 2 if task in BINARY else num_classes
        bad = label[(label >= most) & (label != IGNORE)]
        if bad.size:
            raise InputError(
                f"{path}: label value {bad[0]}, expected 0 to {most - 1}, or {IGNORE} for ignored: "
                f"task {task!r} has {most} classes here"
            )


def _open(path: Path) -> PIL.Image.Image:
    if not path.is_file():
        raise InputError(f"{path}: missing")
    try:
        image = PIL.Image.open(path)
        image.load()
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        raise InputError(
            f"{path}: damaged or cut off ({error}); unpack or download it again"
        ) from None
    return image


def png(path: Path) -> np.ndarray:
    """One channel `(H, W)`, its values as they are stored: no palette is applied."""
    image = _open(path)
    if image.mode not in ("L", "P", "I", "1") and not image.mode.startswith("I;16"):
        raise InputError(f"{path}: got Pillow mode {image.mode}, expected one channel a pixel")
    return np.array(image)


def classes(path: Path) -> np.ndarray:
    """Class indices, 255 ignored."""
    values = png(path)
    if values.max(initial=0) > IGNORE:
        raise InputError(f"{path}: label value {values.max()}, expected at most {IGNORE}")
    return values.astype(np.uint8)


def binary(path: Path) -> np.ndarray:
    """0 and 1, from a picture of 0 and 255, or 0 and 1 with 255 ignored where 1 occurs."""
    values = classes(path)
    if (values == 1).any() or not (values == 255).any():
        return values
    return np.asarray(values == 255, np.uint8)


def probability(path: Path) -> np.ndarray:
    """0 and 1 of a grey picture, cut at a half."""
    return np.asarray(classes(path) > 127, np.uint8)


def array(path: Path) -> np.ndarray:
    """Read a `.npy` file."""
    try:
        return np.asarray(np.load(path))
    except Exception as error:  # numpy raises nearly anything on a damaged file
        raise InputError(
            f"{path}: damaged or cut off ({error}); unpack or download it again"
        ) from None


def depth_array(path: Path) -> np.ndarray:
    """Metres, `(H, W)` float32; what is not finite becomes 0."""
    metres = array(path).astype(np.float32).squeeze()
    metres[~np.isfinite(metres)] = 0
    return metres


def edge_array(path: Path) -> np.ndarray:
    """0 and 1 of a `.npy` of 0 and 1, or 0 and 255."""
    return np.asarray(array(path).squeeze() > 0, np.uint8)


def normals_array(path: Path) -> np.ndarray:
    """Unit vectors of a `.npy` `(H, W, 3)`."""
    return unit(array(path).astype(np.float32), path)


def normals_png(path: Path) -> np.ndarray:
    """Unit vectors of a colour picture, `n = 2 v / 255 - 1`; black is invalid."""
    values = np.array(_open(path).convert("RGB"))
    vectors = values.astype(np.float32) * np.float32(2 / 255) - 1
    vectors[(values == 0).all(-1)] = 0
    return unit(vectors, path)


def unit(vectors: np.ndarray, path: Path) -> np.ndarray:
    """Vectors by their length; those shorter than a hundredth become zero, which is invalid."""
    if vectors.ndim != 3 or vectors.shape[2] != 3:
        raise InputError(f"{path}: normals of shape {vectors.shape}, expected (H, W, 3)")
    length = np.sqrt(np.sum(vectors**2, axis=-1, keepdims=True))
    ok = np.isfinite(length) & (length > 0.01)
    return np.where(ok, vectors / np.where(ok, length, 1), 0).astype(np.float32)


def listed(path: Path) -> list[str]:
    """Ids of a list file, one a line."""
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list of ids cannot be read ({error})") from None
    return [line.split()[0] for line in lines if line.strip()]


def split_files(folder: Path) -> dict[str, Path]:
    """List files `train.txt`, `val.txt`, `test.txt` of a folder, by split."""
    found = {split: folder / f"{split}.txt" for split in SPLITS}
    return {split: path for split, path in found.items() if path.is_file()}
