"""Warped maps: a slow loop is the reference, and rendered motion is the judge."""

import numpy as np
import pytest
from degmix_training.data import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from degmix_edge import tasks
from degmix_edge.errors import ConfigError, ShapeError
from degmix_edge.preprocess import Fit, place
from degmix_edge.runtime import TaskMap
from degmix_edge.runtime.warp import warp

CLASSES = tuple("abcde")


def task_map(task, array):
    height, width = array.shape[:2]
    spec = tasks.find(task).spec(CLASSES if task == "semseg" else ())
    return TaskMap(array, spec, place(height, width, Fit(height=height, width=width)))


def turned(angles):
    """A rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (one for one in range(3) if one != axis)
        about = np.eye(3)
        about[[a, a, b, b], [a, b, a, b]] = [
            *(np.cos(angle), -np.sin(angle)),
            *(np.sin(angle), np.cos(angle)),
        ]
        matrix = about @ matrix
    return matrix


def slow_warp(array, depth, camera, pose, unseen, *, is_normal):
    """One pixel after the other, by the projection as it is in a textbook."""
    result = np.full_like(array, unseen)
    for row in range(depth.shape[0]):
        for column in range(depth.shape[1]):
            z = float(depth[row, column])
            if not np.isfinite(z) or z <= 0:
                continue
            x = (column - camera[0, 2]) / camera[0, 0] * z
            y = (row - camera[1, 2]) / camera[1, 1] * z
            old = pose @ [x, y, z, 1]
            if old[2] < 1e-6:
                continue
            u = camera[0, 0] * old[0] / old[2] + camera[0, 2]
            v = camera[1, 1] * old[1] / old[2] + camera[1, 2]
            u, v = round(u), round(v)
            if 0 <= u < depth.shape[1] and 0 <= v < depth.shape[0]:
                value = array[v, u]
                result[row, column] = pose[:3, :3].T @ value if is_normal else value
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 9), st.integers(1, 11)),
    angle=st.sampled_from([0.0, 0.05, 0.6, 3.0]),
    shift=st.sampled_from([0.0, 0.1, 5.0]),
)
def test_a_warp_is_what_the_slow_loop_gives(seed, size, angle, shift):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 6, size).astype(np.float32)
    depth[rng.random(size) < 0.1] = rng.choice([0.0, -1.0, np.nan, np.inf])
    camera = np.array([[7.3, 0, 4.1], [0, 6.2, 3.3], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = turned(rng.normal(0, 1, 3) * angle)
    pose[:3, 3] = rng.normal(0, 1, 3) * shift
    classes = rng.integers(0, len(CLASSES), size).astype(np.uint8)
    got = warp(task_map("semseg", classes), depth, camera, pose)
    want = slow_warp(classes, depth, camera, pose, 255, is_normal=False)
    np.testing.assert_array_equal(got, want)
    assert got.spec.name == "semseg"
    normals = rng.normal(size=(*size, 3)).astype(np.float32)
    got = warp(task_map("normals", normals), depth, camera, pose)
    want = slow_warp(normals, depth, camera, pose, np.nan, is_normal=True)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got.dtype == np.float32


def test_a_camera_that_stands_still_changes_nothing():
    rng = np.random.default_rng(0)
    edge = task_map("edge", rng.random((8, 12), np.float32))
    depth = np.full((8, 12), 2.0, np.float32)
    camera = np.array([[10, 0, 5.5], [0, 10, 3.5], [0, 0, 1]])
    np.testing.assert_array_equal(warp(edge, depth, camera, np.eye(4)), edge)


def test_labels_of_a_moved_camera_come_back():
    """A rendered scene: a warp of the old labels is nearly the new ones, and a held map is not."""
    size, pose = (96, 128), np.eye(4)
    pose[:3, :3], pose[:3, 3] = turned((0, 0.12, 0)), (0.03, 0, 0.1)
    old = synthetic.render(5, *size, pose=np.eye(4))
    new = synthetic.render(5, *size, pose=pose, frame=1)
    held = {"semseg": old.semseg, "normals": old.normals}
    for task, array in held.items():
        moved = np.asarray(warp(task_map(task, array), new.depth, new.intrinsics, pose))
        seen = moved != 255 if task == "semseg" else np.isfinite(moved).all(-1)
        assert 0.6 < seen.mean() < 1
        label = new.labels[task]

        def wrong(got, label=label, seen=seen):
            differs = got[seen] != label[seen] if got.ndim == 2 else _angle(got, label)[seen] > 5
            return differs.mean()

        assert wrong(moved) < 0.15
        assert wrong(array) > 3 * wrong(moved)


def _angle(a, b):
    return np.degrees(np.arccos((a * b).sum(-1).clip(-1, 1)))


def test_what_cannot_be_warped_is_refused():
    camera, pose, depth = np.eye(3), np.eye(4), np.ones((4, 6), np.float32)
    edge = task_map("edge", np.ones((4, 6), np.float32))
    with pytest.raises(
        ShapeError, match=r"edge: got a map of shape \(4, 6\) and depth of \(4, 5\)"
    ):
        warp(edge, depth[:, :5], camera, pose)
    with pytest.raises(ConfigError, match="depth: its values change as the camera moves"):
        warp(task_map("depth", depth), depth, camera, pose)
    with pytest.raises(ConfigError, match="intrinsics: got a matrix without focal lengths"):
        warp(edge, depth, np.zeros((3, 3)), pose)
    with pytest.raises(ShapeError, match=r"intrinsics: got shape \(4, 4\)"):
        warp(edge, depth, pose, pose)
    with pytest.raises(ShapeError, match=r"pose: got shape \(3, 3\)"):
        warp(edge, depth, camera, camera)
    for bad in (np.zeros((4, 4)), 2 * np.eye(4), np.diag([1, 1, -1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(ConfigError, match="pose: its upper left 3x3 is no rotation"):
            warp(edge, depth, camera, bad)
