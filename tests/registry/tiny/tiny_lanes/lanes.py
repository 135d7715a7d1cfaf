"""Two vertical lines on a grey street, rendered at any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from degmix_training import data

COUNT = {"train": 4, "val": 2, "test": 2}


class DataSet(data.DataSet):
    """Pictures of streets."""

    name = "lanes"
    title = "lanes"
    classes = {"lane": ("background", "left", "right")}  # noqa: RUF012

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def open_split(
        self, split: str, tasks: Sequence[str], count: int | None = None
    ) -> data.Samples:
        """`count` pictures of a split."""
        return Streets(self.size, COUNT[split] if count is None else count)


class Streets(data.Samples):
    """Pictures by index."""

    def __init__(self, size: tuple[int, int], count: int) -> None:
        self.size, self.names = size, [f"street {index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> data.Sample:
        label = np.zeros(self.size, np.uint8)
        label[:, 2 + index] = 1
        label[:, -3 - index] = 2
        image = np.where(label[..., None] > 0, 255, 90).repeat(3, axis=2).astype(np.uint8)
        return data.Sample(self.names[index], image, {"lane": label})
