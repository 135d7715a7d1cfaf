"""Convert a map to a picture."""

from __future__ import annotations

import numpy as np

from degmix_edge.tasks._base import TaskSpec

DEPTH_STOPS = np.array(
    [(48, 18, 59), (70, 107, 227), (41, 187, 236), (49, 242, 153), (163, 253, 60), (237, 208, 58)]
    + [(251, 128, 34), (209, 49, 4), (122, 4, 2)],
    np.float32,
)
"""Colours from near to far: dark blue, cyan, green, yellow, red."""


def farthest(depth_m: np.ndarray, limit: float | None = None) -> float:
    """Return the depth in metres at the far end of the colours; larger depths have the last colour.

    It is `limit` or, if that is None or 0, the 98th percentile of the map, so that a few far pixels
    do not use up the colours. For a map of zeros it is 1 metre.
    """
    return limit or float(np.percentile(depth_m, 98)) or 1.0


def colour(array: np.ndarray, spec: TaskSpec, limit: float | None = None) -> np.ndarray:
    """Convert one map `(H, W)` or `(H, W, 3)` to a picture, uint8 RGB `(H, W, 3)`.

    Args:
        array: The map as `TaskSpec.map_spec` describes it, without the batch dimension.
        spec: The map's task. Class maps use the colours of its palette; 255, which marks pixels
            without a label, is black.
        limit: Depth in metres at the far end of the colours, as in `farthest`. Use the same limit
            for pictures that are compared.
    """
    if spec.decode == "argmax":
        table = np.zeros((256, 3), np.uint8)
        table[: len(spec.palette)] = spec.palette
        return np.asarray(table[array])
    if spec.decode == "unit_vector":
        # The usual colours of normal maps: x right is red, y up is green, the camera is blue.
        towards = array * np.array([1, -1, -1], np.float32)
        return np.asarray(np.clip((towards + 1) * 127.5, 0, 255), np.uint8)
    if spec.decode == "clamp":
        place = np.clip(array / farthest(array, limit), 0, 1) * (len(DEPTH_STOPS) - 1)
        low = np.minimum(place.astype(np.intp), len(DEPTH_STOPS) - 2)
        rest = (place - low)[..., None]
        blend = DEPTH_STOPS[low] * (1 - rest) + DEPTH_STOPS[low + 1] * rest
        return np.asarray(blend, np.uint8)
    grey = np.clip(np.asarray(array, np.float32) * 255, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
