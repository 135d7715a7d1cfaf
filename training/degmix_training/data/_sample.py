"""One image with its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """An image and its labels, all of one size.

    Attributes:
        name: What people call it in reports.
        image: `(H, W, 3)` uint8 RGB.
        labels: By task, as `TaskSpec.map_spec` without the batch: uint8 classes and binary maps
            (255 is ignored), float32 metres (0 is invalid), float32 `(H, W, 3)` unit vectors (zero
            is invalid).
    """

    name: str
    image: np.ndarray
    labels: dict[str, np.ndarray]

    def flipped(self) -> Sample:
        """Left and right exchanged; a normal's x changes its sign."""
        labels = {task: np.ascontiguousarray(label[:, ::-1]) for task, label in self.labels.items()}
        if "normals" in labels:
            labels["normals"] = labels["normals"] * np.array([-1, 1, 1], np.float32)
        return Sample(self.name, np.ascontiguousarray(self.image[:, ::-1]), labels)


class Samples(Sequence[Sample]):
    """Samples by index, each read or unpacked when it is asked for.

    Attributes:
        names: What each one's `name` will be.
    """

    names: Sequence[str]
