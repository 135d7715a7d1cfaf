"""A map as a picture."""

from __future__ import annotations

import numpy as np

from degmix_edge.tasks._base import TaskSpec

DEPTH_STOPS = np.array(
    [(48, 18, 59), (70, 107, 227), (41, 187, 236), (49, 242, 153), (163, 253, 60), (237, 208, 58)]
    + [(251, 128, 34), (209, 49, 4), (122, 4, 2)],
    np.float32,
)
"""From near to far: dark blue, cyan, green, yellow, red."""


def colour(array: np.ndarray, spec: TaskSpec, limit: float | None = None) -> np.ndarray:
    """One map `(H, W)` or `(H, W, 3)` as uint8 RGB `(H, W, 3)`.

    Args:
        array: As `TaskSpec.map_spec` says, without the batch.
        spec: Its task; class maps take its palette, and 255 is black.
        limit: Metres at the far end of the depth colours; None takes the map's 98th percentile.
            Give one limit to pictures that are to be compared.
    """
    if spec.decode == "argmax":
        table = np.zeros((256, 3), np.uint8)
        table[: len(spec.palette)] = spec.palette
        return np.asarray(table[array])
    if spec.decode == "unit_vector":
        # x right is red, y up is green, towards the camera is blue: what normal maps look like.
        towards = array * np.array([1, -1, -1], np.float32)
        return np.asarray(np.clip((towards + 1) * 127.5, 0, 255), np.uint8)
    if spec.decode == "clamp":
        far = limit or float(np.percentile(array, 98)) or 1.0
        place = np.clip(array / far, 0, 1) * (len(DEPTH_STOPS) - 1)
        low = np.minimum(place.astype(np.intp), len(DEPTH_STOPS) - 2)
        rest = (place - low)[..., None]
        blend = DEPTH_STOPS[low] * (1 - rest) + DEPTH_STOPS[low + 1] * rest
        return np.asarray(blend, np.uint8)
    grey = np.clip(np.asarray(array, np.float32) * 255, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
