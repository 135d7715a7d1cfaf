"""Varied and shifted scenes: labels, what they contain, corruptions, what they depend on."""

import time

import numpy as np
import pytest
from degmix_training import data
from degmix_training.data import synthetic, synthetic_shifted, synthetic_varied
from degmix_training.data._varied import textures
from degmix_training.data._varied.corruptions import LEVELS, SEVERITIES, corrupt
from degmix_training.data._varied.render import FARTHEST_M, render
from degmix_training.data._varied.stage import CLASS, SEMSEG_CLASSES

from degmix_edge.errors import ConfigError
from degmix_edge.workflows.sources import PHOTOGRAPHS, data_set

SIZE = (96, 128)
FIRST = 50


@pytest.fixture(scope="module")
def scenes():
    return [render(seed, *SIZE) for seed in range(FIRST, FIRST + 60)]


def test_labels_are_what_tasks_expect(scenes):
    for scene in scenes:
        assert scene.image.shape == (*SIZE, 3)
        assert scene.image.dtype == np.uint8
        for name in ("semseg", "human_parts", "saliency", "edge"):
            assert scene.labels[name].shape == SIZE
            assert scene.labels[name].dtype == np.uint8
        assert scene.depth.dtype == scene.normals.dtype == np.float32
        assert 0 <= scene.depth.min()
        assert scene.depth.max() <= FARTHEST_M
        np.testing.assert_array_equal(scene.human_parts > 0, scene.semseg == CLASS["person"])


def test_the_sky_alone_has_no_normals(scenes):
    for scene in scenes:
        length = np.sqrt(np.sum(scene.normals**2, axis=-1))
        is_sky = scene.semseg == CLASS["sky"]
        np.testing.assert_allclose(length, np.where(is_sky, 0, 1), atol=1e-5)
        assert (scene.depth[is_sky] == 0).all()


def test_normals_face_the_camera(scenes):
    for scene in scenes:
        y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
        pixels = np.stack((x, y, np.ones(SIZE)), axis=-1)
        rays = pixels @ np.linalg.inv(scene.intrinsics).T
        assert np.sum(scene.normals * rays, axis=-1).max() <= 1e-5


def test_edges_are_thin_and_lie_between_classes(scenes):
    assert 0.02 < np.mean([scene.edge.mean() for scene in scenes]) < 0.12
    for scene in scenes:
        change = scene.semseg[:, 1:] != scene.semseg[:, :-1]
        marked = (scene.edge[:, 1:] | scene.edge[:, :-1]) > 0
        assert marked[change].all()


def test_every_class_and_part_occurs(scenes):
    shares = np.array(
        [np.bincount(s.semseg.ravel(), minlength=len(SEMSEG_CLASSES)) > 20 for s in scenes]
    ).mean(axis=0)
    assert dict(zip(SEMSEG_CLASSES, shares >= 0.05, strict=True)) == dict.fromkeys(
        SEMSEG_CLASSES, True
    )
    parts = np.array([[(s.human_parts == p).any() for p in range(7)] for s in scenes]).mean(0)
    assert (parts > 0.3).all(), parts
    assert np.mean([s.saliency.any() for s in scenes]) > 0.85
    bright = np.array([s.image.mean() for s in scenes])
    assert bright.std() > 15
    assert 60 < bright.mean() < 190


def test_a_seed_is_a_scene_wherever_textures_come_from(monkeypatch):
    """Labels are geometry: without scikit-image's photographs they stay, and colours change."""
    first, again = render(5, 48, 64), render(5, 48, 64)
    np.testing.assert_array_equal(first.image, again.image)
    assert textures.digest() == "photographs"
    textures.bank.cache_clear()
    monkeypatch.setattr(textures, "PHOTOGRAPHS", ("no-such-photograph.png",))
    try:
        assert textures.digest() == "patterns"
        bare = [render(seed, 48, 64) for seed in range(5, 9)]
    finally:
        textures.bank.cache_clear()
    for task, label in first.labels.items():
        np.testing.assert_array_equal(label, bare[0].labels[task])
    monkeypatch.undo()
    full = [render(seed, 48, 64) for seed in range(5, 9)]
    assert any((a.image != b.image).any() for a, b in zip(full, bare, strict=True))


def test_textures_hold_no_photograph_that_results_are_shown_on():
    names = {name.partition(".")[0] for name in textures.PHOTOGRAPHS}
    shown = {*PHOTOGRAPHS, "motorcycle_left", "motorcycle_right"}
    assert not names & shown
    assert all(level.min() >= 0 and level.max() <= 1 for t in textures.bank() for level in t.levels)


@pytest.mark.parametrize("size", [(1, 1), (37, 53)])
def test_any_size(size):
    assert render(3, *size).depth.shape == size


def test_absurd_sizes():
    with pytest.raises(ConfigError, match="expected sides from 1 to 4096"):
        render(0, 10, 5000)


def test_training_scenes_hold_plain_ones():
    train = data.open_data("synthetic_varied", None, (32, 48)).open_split("train", (), 5)
    assert list(train.names) == [
        "scene 0",
        *(f"varied scene {seed}" for seed in (1, 2, 3)),
        "scene 4",
    ]
    np.testing.assert_array_equal(train[4].image, synthetic.render(4, 32, 48).image)
    np.testing.assert_array_equal(train[1].image, render(1, 32, 48).image)
    source, count = data_set("synthetic_varied:3", (32, 48))
    test = source.open_split("test", tuple(source.classes), count)
    assert all(name.startswith("varied scene 2") for name in test.names)
    assert synthetic_varied.CLASSES["semseg"][:10] == synthetic.CLASSES["semseg"]


def test_stored_normals_of_the_sky_stay_zero():
    samples = data.open_data("synthetic_varied", None, (32, 48)).open_split("val", (), 12)
    skies = [samples[i].labels for i in range(12)]
    assert any((labels["semseg"] == CLASS["sky"]).any() for labels in skies)
    for labels in skies:
        assert np.isfinite(labels["normals"]).all()
        is_sky = labels["semseg"] == CLASS["sky"]
        assert (labels["normals"][is_sky] == 0).all()


def test_shifted_scenes_take_every_corruption_at_every_level():
    samples = data.open_data("synthetic_shifted", None, (24, 32)).open_split("test", (), 45)
    kinds = {name.partition(", ")[2] for name in samples.names}
    assert kinds == {f"{kind} {level}" for kind in LEVELS for level in range(1, SEVERITIES + 1)}
    with pytest.raises(ConfigError, match="no split of synthetic_shifted 'train'. Have: val, test"):
        synthetic_shifted.DataSet((24, 32)).open_split("train", ())


@pytest.mark.parametrize("name", LEVELS)
def test_a_corruption_grows_with_its_level(name):
    pictures = [render(seed, *SIZE).image for seed in (70, 71)]
    errors = []
    for level in range(1, SEVERITIES + 1):
        changed = [corrupt(p, name, level, np.random.default_rng(3)) for p in pictures]
        assert all(
            c.shape == p.shape and c.dtype == np.uint8
            for c, p in zip(changed, pictures, strict=True)
        )
        errors.append(
            np.mean(
                [np.abs(c.astype(float) - p).mean() for c, p in zip(changed, pictures, strict=True)]
            )
        )
    assert errors[0] > 0.5
    assert errors == sorted(errors)


def test_corruptions_of_a_grey_picture_by_hand():
    """A flat grey picture: what each constant does to it can be computed."""
    grey, rng = np.full((64, 64, 3), 128, np.uint8), np.random.default_rng(0)
    noisy = corrupt(grey, "gaussian_noise", 1, rng).astype(float) / 255
    assert noisy.std() == pytest.approx(0.08, rel=0.03)
    shot = corrupt(grey, "shot_noise", 2, rng).astype(float) / 255
    assert shot.std() == pytest.approx(np.sqrt(0.502 / 25), rel=0.04)
    salt = corrupt(grey, "impulse_noise", 4, rng)
    assert np.isin(salt, (0, 255)).mean() == pytest.approx(0.17, rel=0.06)
    for name in ("defocus_blur", "motion_blur", "pixelate", "contrast"):
        assert np.abs(corrupt(grey, name, 5, rng).astype(int) - 128).max() <= 1
    assert (corrupt(grey, "brightness", 3, rng) == int(255 * (128 / 255 + 0.3))).all()


def test_speed_is_printed(capsys):
    start = time.process_time()
    for seed in range(4):
        render(seed, 192, 256)
    with capsys.disabled():
        rate = 4 / (time.process_time() - start)
        print(f"\nvaried scenes: {rate:.1f} a second of one core at 192x256")
