"""What a data set is: samples by split, with labels for some tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from degmix_training.data._sample import Samples

SPLITS = ("train", "val", "test")


class DataSet(ABC):
    """Labelled images.

    Attributes:
        name: The file's name.
        title: What people read.
        classes: By task that it has labels for: class names, or none where the task has none.
        size: `(height, width)` that networks are trained at on it by the published recipe, or None.
        edge_tolerance: Share of the image's diagonal that odsF lets a boundary be off.
        absent_classes: How mIoU counts a class that is in no label and no map: left out, or as 0,
            which is what the published figures of NYUD-v2 and PASCAL-Context do.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    classes: Mapping[str, tuple[str, ...]]
    size: tuple[int, int] | None = None
    edge_tolerance: float = 0.0075
    absent_classes: Literal["skip", "zero"] = "skip"

    def __init__(self, root: Path) -> None:
        """Open the folder.

        Raises:
            InputError: It does not have this data set's layout.
        """
        self.root = root

    @abstractmethod
    def open_split(self, split: str, tasks: Sequence[str], count: int | None = None) -> Samples:
        """The first `count` samples of `train`, `val` or `test`, with labels of `tasks` only.

        Images come at their own size, and files are read when a sample is.

        Raises:
            ConfigError: There are no labels for a task, or no such split.
        """
