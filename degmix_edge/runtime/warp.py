"""Bring a map of an earlier frame into the present view, by the present depth and the motion.

A task that runs once in several frames has a map of an earlier view. Held as it is, it lies beside
what it describes as soon as the camera moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from degmix_edge.errors import ConfigError, ShapeError
from degmix_edge.metrics import ignored
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.tasks import look

SMALLEST_DEPTH_M = 1e-6
TOLERANCE = 1e-3
"""How far a rotation matrix may be from orthonormal."""


def warp(
    task_map: TaskMap, depth_m: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray
) -> TaskMap:
    """Return `task_map`, which is of an earlier frame, as the present camera would see it.

    Each pixel of the present view takes the nearest pixel of the old map at which its point was.
    What hid the point from the old camera, or has moved since, is not known. Vectors of normals
    are turned with the camera.

    Args:
        task_map: A map of an earlier frame, `(H, W)` or `(H, W, C)`.
        depth_m: Depth of the present frame in metres along the optical axis, `(H, W)`.
        intrinsics: Camera matrix of the maps' own pixels, `(3, 3)`, with pixel centres at whole
            coordinates. It is that of both frames.
        pose: `(4, 4)`, from points in the present camera to points in the old one, in metres, with
            x right, y down and z forward.

    Returns:
        The map in the present view. Pixels that the old camera did not see, or whose depth is not
        known, are NaN or, in a map of class indices, the label that no metric scores: 255, or 65535
        where there are more than 255 classes.

    Raises:
        ShapeError: Shapes do not fit together, or the map is a raw output.
        ConfigError: The map's values depend on where the camera is, as depth does; or a matrix is
            none of a camera or of a motion.
    """
    spec = task_map.spec
    depth_m, camera = np.asarray(depth_m), _camera(intrinsics)
    rotation, moved = _motion(pose)
    if spec.is_raw or task_map.ndim < 2 or task_map.shape[:2] != depth_m.shape:
        raise ShapeError(
            f"{spec.name}: got a map of shape {task_map.shape} and depth of {depth_m.shape}, "
            "expected maps of the same height and width"
        )
    if look(spec) in ("ramp", "range", "flow"):
        raise ConfigError(
            f"{spec.name}: its values change as the camera moves, and a warp only moves them; let "
            "the task run on this frame, or use the held map as it is"
        )
    rows, columns, is_seen = _sources(depth_m, camera, rotation, moved)
    values = np.asarray(task_map)[rows, columns]
    if look(spec) == "normal":
        values = (values @ rotation).astype(values.dtype)  # old to present: the transpose
    values[~is_seen] = ignored(spec.num_channels) if spec.has_labels else np.nan
    return TaskMap(values, spec, task_map.placement)


def _sources(
    depth_m: np.ndarray, camera: np.ndarray, rotation: np.ndarray, moved: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel its row and column in the old map, and whether it was inside."""
    height, width = depth_m.shape
    rows, columns = np.mgrid[:height, :width]
    depth = np.where(np.isfinite(depth_m), depth_m, 0.0).astype(np.float64)
    pixels = np.stack((columns, rows, np.ones_like(rows)), axis=-1)
    points = depth[..., None] * (pixels @ np.linalg.inv(camera).T) @ rotation.T + moved
    ahead = np.maximum(points[..., 2:], SMALLEST_DEPTH_M)
    # Places far outside would not fit an integer.
    x, y = np.moveaxis(((points / ahead) @ camera.T)[..., :2], -1, 0).clip(-1e6, 1e6)
    old_rows, old_columns = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    is_seen = (depth > 0) & (points[..., 2] >= SMALLEST_DEPTH_M)
    is_seen &= (old_rows >= 0) & (old_rows < height) & (old_columns >= 0) & (old_columns < width)
    return old_rows.clip(0, height - 1), old_columns.clip(0, width - 1), is_seen


def _camera(intrinsics: Any) -> np.ndarray:
    camera = np.asarray(intrinsics, np.float64)
    if camera.shape != (3, 3):
        raise ShapeError(f"intrinsics: got shape {camera.shape}, expected (3, 3)")
    if not (np.isfinite(camera).all() and camera[0, 0] > 0 and camera[1, 1] > 0):
        raise ConfigError(
            "intrinsics: got a matrix without focal lengths above 0; a camera that is not "
            "calibrated has no such matrix"
        )
    return camera


def _motion(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rotation and the translation of a pose."""
    matrix = np.asarray(pose, np.float64)
    if matrix.shape != (4, 4):
        raise ShapeError(f"pose: got shape {matrix.shape}, expected (4, 4)")
    rotation, moved = matrix[:3, :3], matrix[:3, 3]
    is_turn = np.allclose(rotation @ rotation.T, np.eye(3), atol=TOLERANCE)
    if not is_turn or np.linalg.det(rotation) < 0 or not np.isfinite(moved).all():
        raise ConfigError(
            "pose: its upper left 3x3 is no rotation, or its last column is not finite; expected "
            "the motion from the present camera to the old one, in metres"
        )
    return rotation, moved
