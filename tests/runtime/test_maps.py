"""Task maps as arrays: copies, pickles, arithmetic, pictures over their image, legends."""

import copy
import pickle

import numpy as np
import pytest
from conftest import task_specs
from PIL import Image

import degmix_edge
from degmix_edge.errors import ConfigError, InputError, ShapeError
from degmix_edge.preprocess import Placement
from degmix_edge.runtime import Maps, TaskMap
from degmix_edge.runtime.legend import BAR, MARGIN, ROW, SWATCH
from degmix_edge.tasks import colour

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ROUND_TRIPS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "method": lambda value: value.copy(),
    **{f"pickle {p}": lambda value, p=p: pickle.loads(pickle.dumps(value, p)) for p in PROTOCOLS},
}
PHOTO = np.random.default_rng(0).integers(0, 256, (120, 50, 3), np.uint8)
"""Padded on its left and right: its maps are views, not contiguous, of the network's output."""


@pytest.fixture(scope="module")
def maps(bundles):
    with degmix_edge.load(bundles["fp32"].path) as session:
        return session(PHOTO)


def task_map(name: str, array: np.ndarray, image_size: tuple[int, int] | None = None) -> TaskMap:
    """A map of values that a test chooses."""
    size = array.shape[:2]
    return TaskMap(array, task_specs()[name], Placement(0, 0, *size, *(image_size or size)))


def assert_same(got: TaskMap, want: TaskMap):
    assert type(got) is TaskMap
    assert (got.spec, got.placement) == (want.spec, want.placement)
    assert (got.task, got.unit, got.classes) == (want.task, want.unit, want.classes)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_a_map_survives(maps, round_trip):
    for task, want in maps.items():
        assert not want.flags.c_contiguous, f"{task}: the test is too easy"
        got = ROUND_TRIPS[round_trip](want)
        assert_same(got, want)
        np.testing.assert_array_equal(got.at_image_size(), want.at_image_size())
        assert not np.shares_memory(got, want)


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_maps_survive(maps, round_trip):
    got = ROUND_TRIPS[round_trip](maps)
    assert type(got) is Maps
    assert list(got) == list(maps)
    for task in maps:
        assert_same(got[task], maps[task])
    assert got.latency == maps.latency
    assert got.latency.total_ms > 0
    with pytest.raises(KeyError, match=r"no task 'flow'.*Have: semseg"):
        got["flow"]


def test_a_deep_copy_has_its_own_memory_and_a_copy_has_not(maps):
    assert not np.shares_memory(copy.deepcopy(maps)["depth"], maps["depth"])
    assert copy.copy(maps)["depth"] is maps["depth"]


def test_numpys_own_copies_keep_the_task(maps):
    want = maps["depth"]
    for got in (np.array(want, subok=True), np.copy(want, subok=True), np.asanyarray(want)):
        assert_same(got, want)
    assert type(np.array(want)) is np.ndarray


def test_a_pickle_out_of_band_has_the_array_once():
    want = task_map("depth", np.arange(20_000, dtype=np.float32).reshape(100, 200))
    buffers = []
    pickled = pickle.dumps(want, 5, buffer_callback=buffers.append)
    assert len(pickled) < 4000
    assert [buffer.raw().nbytes for buffer in buffers] == [want.nbytes]
    assert_same(pickle.loads(pickled, buffers=buffers), want)


def test_scalars_and_reductions_are_numpys():
    depth = task_map("depth", np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    plain = np.asarray(depth)
    for reduce in (np.max, np.mean, np.sum, np.std, np.median, np.ptp, np.argmax):
        assert type(reduce(depth)) is type(reduce(plain)), reduce
        assert reduce(depth) == reduce(plain), reduce
    assert type(depth.min()) is np.float32
    assert type(depth[0, 1]) is np.float32
    assert type((depth > 0).all()) is np.bool_
    assert f"{depth.max():.1f}" == "6.0"
    for got, want in [
        (depth.mean(axis=0), plain.mean(axis=0)),
        (depth.std(axis=1, keepdims=True), plain.std(axis=1, keepdims=True)),
        (depth > 2, plain > 2),
        (depth.astype(np.float64) == depth, plain == plain),
        (np.stack([depth, depth]), np.stack([plain, plain])),
    ]:
        assert type(got) is np.ndarray
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_arithmetic_that_gives_a_map_keeps_the_task():
    depth = task_map("depth", np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    for got in (depth * 2, np.minimum(depth, 3), -depth, depth[:1], depth.clip(0, 3)):
        assert type(got) is TaskMap
        assert got.task == "depth"
    same = depth
    same *= 2
    assert same is depth
    assert depth[1, 2] == 12
    labels = task_map("semseg", np.array([[0, 1], [2, 1]], np.uint8))
    assert type(labels == 1) is np.ndarray
    assert type(labels / 2) is np.ndarray
    assert np.bincount(labels.ravel()).tolist() == [1, 2, 1]
    np.testing.assert_array_equal(PHOTO[:2, :2][labels == 1], PHOTO[:2, :2][[0, 1], [1, 1]])


def test_a_part_of_a_map_has_no_place_on_the_image(maps):
    for part in (maps["depth"][:4], maps["normals"][..., 0], maps["depth"].T):
        with pytest.raises(ShapeError, match=r"got a part of shape .*expected the whole map"):
            part.at_image_size()
    with pytest.raises(ShapeError, match="whole map"):
        maps["depth"][:4].overlay(PHOTO)


@pytest.mark.parametrize("kind", ["path", "str", "pillow", "array"])
def test_an_overlay_takes_every_kind_of_image(maps, tmp_path, kind):
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    image = {
        "path": path,
        "str": str(path),
        "pillow": Image.fromarray(PHOTO),
        "array": PHOTO,
    }[kind]
    before = PHOTO.copy()
    for task, array in maps.items():
        picture = array.overlay(image, alpha=0.25)
        assert type(picture) is np.ndarray
        assert (picture.dtype, picture.shape) == (np.uint8, PHOTO.shape)
        colours = colour(array.at_image_size(), array.spec).astype(np.float64)
        assert np.abs(picture - (0.75 * PHOTO + 0.25 * colours)).max() <= 0.5 + 1e-4, task
    np.testing.assert_array_equal(PHOTO, before)


def test_alpha_goes_from_the_image_to_the_map(maps):
    labels = maps["semseg"]
    np.testing.assert_array_equal(labels.overlay(PHOTO, 0), PHOTO)
    whole = colour(labels.at_image_size(), labels.spec)
    np.testing.assert_array_equal(labels.overlay(PHOTO, 1.0), whole)
    default = labels.overlay(PHOTO)
    np.testing.assert_array_equal(default, labels.overlay(PHOTO, 0.5))
    assert (default != PHOTO).any()
    assert (default != whole).any()


def test_an_overlay_of_depth_takes_a_limit():
    depth = task_map("depth", np.full((2, 2), 2, np.float32))
    black = np.zeros((2, 2, 3), np.uint8)
    for limit in (2.0, 8.0):
        np.testing.assert_array_equal(
            depth.overlay(black, 1, limit=limit), colour(np.asarray(depth), depth.spec, limit)
        )
    assert (depth.overlay(black, 1, limit=2.0) != depth.overlay(black, 1, limit=8.0)).any()


def test_the_colours_of_a_map_are_the_same_everywhere():
    values = np.zeros((4, 4), np.float32)
    values[0, 0] = 100  # at the image's size, this pixel weighs less
    depth = task_map("depth", values, (9, 13))
    far = float(np.percentile(values, 98))
    assert far != float(np.percentile(depth.at_image_size(), 98))
    np.testing.assert_array_equal(depth.colour(), depth.colour(far))
    np.testing.assert_array_equal(depth.legend(), depth.legend(far))
    image = np.zeros((9, 13, 3), np.uint8)
    np.testing.assert_array_equal(depth.overlay(image, 1), depth.overlay(image, 1, limit=far))


def test_an_overlay_refuses_another_image(maps, tmp_path):
    sizes = r"image of 40 x 120 pixels.*semseg map is of an image of 50 x 120.*session was given"
    with pytest.raises(InputError, match=sizes):
        maps["semseg"].overlay(PHOTO[:, :40])
    with pytest.raises(InputError, match="image of 120 x 50 pixels"):
        maps["semseg"].overlay(Image.fromarray(PHOTO).transpose(Image.Transpose.ROTATE_90))
    with pytest.raises(InputError, match="no such file"):
        maps["semseg"].overlay(tmp_path / "photo.png")
    with pytest.raises(InputError, match="got float64"):
        maps["semseg"].overlay(PHOTO / 255)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), 128])
def test_an_overlay_refuses_an_alpha_that_is_no_fraction(maps, alpha):
    with pytest.raises(ConfigError, match="alpha: got .*from 0 to 1"):
        maps["semseg"].overlay(PHOTO, alpha)


def is_written(picture: np.ndarray) -> bool:
    """Whether a part of a legend has dark text on white."""
    return bool((picture < 60).all(axis=-1).any() and (picture == 255).all(axis=-1).any())


@pytest.mark.parametrize("task", ["semseg", "human_parts"])
def test_a_legend_of_classes_has_a_swatch_and_a_name_each(maps, task):
    spec = maps[task].spec
    legend = maps[task].legend()
    assert legend.dtype == np.uint8
    assert legend.shape[0] == MARGIN + ROW * len(spec.classes)
    names = []
    for index, rgb in enumerate(spec.palette):
        top = MARGIN + ROW * index
        swatch = legend[top : top + SWATCH, MARGIN : MARGIN + SWATCH]
        assert (swatch == rgb).all(), spec.classes[index]
        text = legend[top : top + SWATCH, 2 * MARGIN + SWATCH :]
        assert is_written(text), spec.classes[index]
        names.append(text.tobytes())
    assert len(set(names)) == len(spec.classes), "two classes have the same picture of a name"
    # Long names are not cut off.
    assert (legend[:, -MARGIN:] == 255).all()


def bar_of(legend: np.ndarray, top: int) -> tuple[np.ndarray, int]:
    """One line of pixels of the bar whose first row is `top`, and where it begins."""
    line = legend[top + SWATCH // 2]
    (grey,) = np.nonzero((legend[top - 1] == 160).all(axis=-1))  # the frame's upper side
    assert len(grey) == BAR + 2
    start = grey[0] + 1
    return line[start : start + BAR], start


@pytest.mark.parametrize(("task", "limit"), [("depth", None), ("depth", 7.5), ("edge", None)])
def test_a_legend_of_numbers_is_the_bar_of_their_colours(maps, task, limit):
    array = maps[task] + np.float32(0.5)  # a depth map of an untrained network is nearly all zeros
    legend = array.legend(limit)
    bar, start = bar_of(legend, MARGIN + ROW)
    far = {"edge": 1.0}.get(task) or limit or np.percentile(array, 98)
    want = colour(np.linspace(0, far, BAR, dtype=np.float32)[None], array.spec, far)[0]
    assert np.abs(bar.astype(int) - want).max() <= 1
    assert is_written(legend[: MARGIN + SWATCH])  # task and unit
    assert is_written(legend[MARGIN + ROW :, : start - 1])  # smallest value
    assert is_written(legend[MARGIN + ROW :, start + BAR + 1 :])  # largest value


def test_a_legend_says_the_limit_and_the_unit():
    depth = task_map("depth", np.full((2, 2), 2, np.float32))
    near, far = depth.legend(2.0), depth.legend(7.0)
    assert near.shape[0] == far.shape[0]
    assert near.shape != far.shape or (near != far).any()
    np.testing.assert_array_equal(near, depth.legend())
    edge = task_map("edge", np.full((2, 2), 0.5, np.float32))
    saliency = task_map("saliency", np.full((2, 2), 0.5, np.float32))
    assert edge.legend().shape != saliency.legend().shape or (
        (edge.legend() != saliency.legend()).any()
    )


def test_a_legend_of_vectors_has_a_bar_a_component(maps):
    legend = maps["normals"].legend()
    for index in range(3):
        bar, _ = bar_of(legend, MARGIN + ROW * (index + 1))
        vectors = np.zeros((1, BAR, 3), np.float32)
        vectors[0, :, index] = np.linspace(-1, 1, BAR)
        want = colour(vectors, maps["normals"].spec)[0]
        np.testing.assert_array_equal(bar, want)
        assert want[0, index] != want[-1, index]


def test_a_legend_needs_no_freetype(maps, monkeypatch):
    from PIL import ImageFont, features

    want = maps["semseg"].legend()
    old = ImageFont.load_default_imagefont()
    monkeypatch.setattr(features, "check", lambda feature: False)
    monkeypatch.setattr(ImageFont, "load_default", lambda size: {None: old}[size])
    got = maps["semseg"].legend()
    assert got.shape[0] == want.shape[0]
    assert is_written(got[:, 2 * MARGIN + SWATCH :])
