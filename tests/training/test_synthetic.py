"""Scenes: exact labels, the same everywhere, varied."""

import time

import numpy as np
import pytest
from degmix_training import data
from degmix_training.data import synthetic
from degmix_training.data._layout import PERSON
from degmix_training.data.synthetic import CLASSES, render

from degmix_edge.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes():
    return [render(seed, 96, 128) for seed in range(40)]


def test_labels_are_what_tasks_expect(scenes):
    for scene in scenes[:3]:
        assert scene.image.shape == (96, 128, 3)
        assert set(scene.labels) == set(CLASSES)
        for name in ("semseg", "human_parts", "saliency", "edge"):
            assert scene.labels[name].shape == (96, 128)
            assert scene.labels[name].dtype == np.uint8
        assert scene.depth.dtype == scene.normals.dtype == np.float32


def test_a_seed_is_a_scene():
    for first, second in zip(
        render(5, 48, 64).labels.values(), render(5, 48, 64).labels.values(), strict=True
    ):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(render(5, 48, 64).image, render(5, 48, 64).image)
    assert (render(5, 48, 64).image != render(6, 48, 64).image).any()


@pytest.mark.parametrize(
    ("seed", "depth", "wall"), [(0, 3.24, 0.3), (1, 3.6, 0.37), (2, 2.53, 0.33)]
)
def test_scenes_are_the_same_on_every_machine(seed, depth, wall):
    scene = render(seed, 96, 128)
    assert scene.depth.mean() == pytest.approx(depth, abs=0.01)
    assert (scene.semseg == 0).mean() == pytest.approx(wall, abs=0.01)


def test_normals_are_unit_and_face_the_camera(scenes):
    for scene in scenes:
        np.testing.assert_allclose(np.linalg.norm(scene.normals, axis=-1), 1, atol=1e-5)
        y, x = np.mgrid[0:96, 0:128]
        # Any focal length of the range will do for the centre of the image.
        centre = (np.abs(x - 64) < 8) & (np.abs(y - 48) < 8)
        assert (scene.normals[centre][:, 2] < 0.3).all()


def test_normals_are_those_of_the_depth(scenes):
    """On a plane, 1 / depth is linear in the pixel: its gradient gives the normal's direction."""
    agree = []
    for scene in scenes[:10]:
        inverse = 1 / scene.depth.astype(np.float64)
        dx = inverse[1:-1, 2:] - inverse[1:-1, :-2]
        dy = inverse[2:, 1:-1] - inverse[:-2, 1:-1]
        inside = slice(1, -1)
        n, edge = scene.normals[inside, inside], scene.edge
        flat = np.ones_like(dx, bool)
        for shift_y in range(3):
            for shift_x in range(3):
                flat &= edge[shift_y : shift_y + 94, shift_x : shift_x + 126] == 0
        flat &= np.isin(scene.semseg[inside, inside], (0, 1, 2, 5))
        steep = flat & (np.hypot(dx, dy) > 1e-3)
        # 1 / z grows where the surface comes nearer: towards -n in the image plane, for n.z < 0.
        cosine = (dx * n[..., 0] + dy * n[..., 1]) / np.maximum(
            np.hypot(dx, dy) * np.hypot(n[..., 0], n[..., 1]), 1e-12
        )
        agree.append(np.abs(cosine[steep]).mean())
    assert np.mean(agree) > 0.98


def test_depth_is_positive_and_inside_a_room(scenes):
    for scene in scenes:
        assert scene.depth.min() > 0.05
        assert scene.depth.max() < 12


def test_parts_are_exactly_the_people(scenes):
    for scene in scenes:
        np.testing.assert_array_equal(scene.human_parts > 0, scene.semseg == PERSON)


def test_edges_are_thin_and_lie_between_classes(scenes):
    shares = [scene.edge.mean() for scene in scenes]
    assert 0.01 < np.mean(shares) < 0.12
    for scene in scenes[:10]:
        change = scene.semseg[:, 1:] != scene.semseg[:, :-1]
        marked = (scene.edge[:, 1:] | scene.edge[:, :-1]) > 0
        assert marked[change].all()


def test_everything_occurs(scenes):
    classes = np.array([[(s.semseg == c).any() for c in range(10)] for s in scenes]).mean(0)
    assert (classes > 0.25).all(), classes
    parts = np.array([[(s.human_parts == p).any() for p in range(7)] for s in scenes]).mean(0)
    assert (parts > 0.25).all(), parts
    salient = [s.saliency.mean() for s in scenes]
    assert np.mean([share > 0 for share in salient]) > 0.9
    assert max(salient) < 0.8


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (64, 96)])
def test_any_size(size):
    assert render(3, *size).depth.shape == size


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10, 5000)])
def test_absurd_sizes(size):
    with pytest.raises(ConfigError, match="expected sides from 1 to 4096"):
        render(0, *size)


def test_a_split_is_rendered_once_and_has_seeds_of_its_own(monkeypatch):
    train = data.open_split("synthetic", "train", 3, 32, 48)
    assert [s.name for s in train] == ["scene 0", "scene 1", "scene 2"]
    test = data.open_split("synthetic", "test", 2, 32, 48)
    assert {s.name for s in test}.isdisjoint(s.name for s in train)
    scene, stored = render(1, 32, 48), train[1]
    np.testing.assert_array_equal(stored.image, scene.image)
    np.testing.assert_array_equal(stored.labels["semseg"], scene.semseg)
    np.testing.assert_allclose(stored.labels["depth"], scene.depth, rtol=1e-3)
    angle = np.sum(stored.labels["normals"] * scene.normals, -1)
    assert angle.min() > np.cos(np.deg2rad(1))
    calls = []
    monkeypatch.setattr(synthetic, "render", lambda *a: calls.append(a) or render(*a))
    data.open_split("synthetic", "train", 3, 32, 48)
    assert len(calls) == 1  # the probe that gives the size


def test_flipping_turns_normals(scenes):
    sample = synthetic.sample(4, 48, 64)
    flipped = sample.flipped()
    np.testing.assert_array_equal(flipped.image[:, 0], sample.image[:, -1])
    np.testing.assert_allclose(
        flipped.labels["normals"][:, 0], sample.labels["normals"][:, -1] * [-1, 1, 1]
    )
    for task, label in flipped.flipped().labels.items():
        np.testing.assert_array_equal(label, sample.labels[task])


def test_speed_is_printed(capsys):
    start = time.perf_counter()
    for seed in range(4):
        render(seed, 192, 256)
    with capsys.disabled():
        print(f"\nsynthetic scenes: {4 / (time.perf_counter() - start):.1f} a second at 192x256")
