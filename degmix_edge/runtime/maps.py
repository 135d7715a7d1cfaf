"""Task maps: numpy arrays that know what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from degmix_edge.preprocess import Placement
from degmix_edge.tasks import TaskSpec, colour


class TaskMap(np.ndarray):
    """One task's map of one image, at the network's size, padding cut off.

    uint8 `(H, W)` classes, float32 `(H, W)` probabilities or metres, or float32 `(H, W, 3)` unit
    vectors.

    Attributes:
        spec: The task, with classes, palette and unit.
        placement: Where it lies on the image.
    """

    spec: TaskSpec
    placement: Placement

    def __new__(cls, array: np.ndarray, spec: TaskSpec, placement: Placement) -> TaskMap:
        """A view of `array`."""
        view = np.asarray(array).view(cls)
        view.spec, view.placement = spec, placement
        return view

    def __array_finalize__(self, source: Any) -> None:
        """Slices and results of arithmetic keep the task."""
        if source is not None and hasattr(source, "spec"):
            self.spec, self.placement = source.spec, source.placement

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.spec.name

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return self.spec.unit

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; empty where the task has none."""
        return self.spec.classes

    def colour(self, limit: float | None = None) -> np.ndarray:
        """As uint8 RGB `(H, W, 3)`; see `tasks.colour`."""
        return colour(np.asarray(self), self.spec, limit)

    def at_image_size(self) -> np.ndarray:
        """The map on the image's own pixels: classes nearest, others bilinear, vectors unit."""
        placed = self.placement
        shape = (placed.image_height, placed.image_width)
        if self.shape[:2] == shape:
            return np.asarray(self)
        height, width = self.shape[:2]
        inside = Placement(0, 0, height, width, *shape)
        resized = inside.to_image_size(np.asarray(self), labels=self.spec.decode == "argmax")
        if self.spec.decode == "unit_vector":
            resized /= np.maximum(np.linalg.norm(resized, axis=-1, keepdims=True), 1e-6)
        return resized


class Maps(dict[str, TaskMap]):
    """Task maps of one image, by task name. `latency` says what they cost."""

    @classmethod
    def of(
        cls, arrays: Mapping[str, np.ndarray], tasks: Iterable[TaskSpec], placement: Placement
    ) -> Maps:
        """A backend's arrays, batch first, as the maps of the one image in them."""
        return cls(
            {t.name: TaskMap(placement.crop(arrays[t.name][0]), t, placement) for t in tasks}
        )

    def __missing__(self, task: str) -> TaskMap:
        """A task that this network does not have."""
        raise KeyError(f"no task {task!r} in this bundle. Have: {', '.join(self)}")
