"""Results as pictures for people: the camera's image, and maps with steady colours."""

from __future__ import annotations

import numpy as np

from degmix_edge.camera import to_rgb
from degmix_edge.capture import CapturedFrame
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.frames import image_of, read_first
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.results import StreamResult
from degmix_edge.tasks import false_colour, farthest, look

NEW_SHARE = 0.1
"""Weight of a frame's own limit in the limit of the colours, so that they do not flicker."""


def pixels_of(frame: CapturedFrame, network: NetworkSpec) -> np.ndarray:
    """Return the camera's image as uint8 RGB `(H, W, 3)`; other numbers get false colours.

    Raises:
        InputError: It has no image, it cannot be read, or only a GPU can read it.
    """
    image = image_of(frame.image)
    if network.takes_map:
        return false_colour(read_first(image, network))
    if isinstance(image, np.ndarray) and frame.format != "rgb":
        return to_rgb(image, frame.format)
    return read_first(image, network)


class Painter:
    """Colours the maps of successive frames. Depth keeps its colours while the scene changes."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, str], float] = {}

    def limit(self, camera: str, task_map: TaskMap) -> float | None:
        """Return the value at the far end of the colours; None where the task needs none."""
        kind = look(task_map.spec)
        if kind not in ("ramp", "range", "flow"):
            return None
        values = np.asarray(task_map)
        sizes = np.linalg.norm(values, axis=-1) if values.ndim == 3 else np.abs(values)
        known = sizes[np.isfinite(sizes)]
        key = (camera, task_map.task)
        if known.size:
            own = farthest(known)
            old = self._limits.get(key, own)
            self._limits[key] = old + NEW_SHARE * (own - old)
        return self._limits.get(key)

    def colour(self, camera: str, task_map: TaskMap) -> np.ndarray:
        """Return the map as a picture, uint8 RGB `(H, W, 3)` of the map's own size."""
        return task_map.colour(self.limit(camera, task_map))


class Unseen:
    """Says which maps of a result were not shown yet, where results in between may be left out."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], int] = {}

    def tasks(self, result: StreamResult) -> set[str]:
        """Return the tasks whose maps are new since the last call for this camera."""
        computed = {
            (result.camera, task): result.frame.index - age
            for task, age in result.frames_old.items()
        }
        new = {task for (camera, task), at in computed.items() if self._is_new(camera, task, at)}
        self._shown |= computed
        return new

    def _is_new(self, camera: str, task: str, computed_at: int) -> bool:
        return self._shown.get((camera, task)) != computed_at
