"""Maps as files, read back with the programs that users have."""

import numpy as np
import pytest
from conftest import task_specs
from PIL import Image

import degmix_edge
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.preprocess import Placement
from degmix_edge.runtime import Maps, TaskMap

PHOTO = np.random.default_rng(0).integers(0, 256, (50, 120, 3), np.uint8)


@pytest.fixture(scope="module")
def maps(bundles):
    with degmix_edge.load(bundles["fp32"].path) as session:
        return session(PHOTO)


def saved(folder, **arrays):
    """Maps of values that a test chooses, saved."""
    specs = task_specs()
    maps = Maps()
    for name, values in arrays.items():
        array = np.array(values, np.uint8 if specs[name].decode == "argmax" else np.float32)
        size = array.shape[:2]
        maps[name] = TaskMap(array, specs[name], Placement(0, 0, *size, *size))
    return maps.save(folder)


def bit_depth(path) -> int:
    """Bits a channel, from the header of a PNG file."""
    header = path.read_bytes()[:33]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return header[24]


@pytest.mark.parametrize("native", [False, True])
def test_saved_maps_are_read_back(maps, tmp_path, native):
    folder = tmp_path / "new" / "folder"
    paths = maps.save(folder, stem="frame.1", native=native)
    assert [p.name for p in paths] == [f"frame.1.{task}.png" for task in maps] + ["frame.1.npz"]
    assert sorted(folder.iterdir()) == sorted(paths)
    size = PHOTO.shape[:2] if native else maps["depth"].shape
    assert native == (size != maps["depth"].shape)
    with np.load(paths[-1]) as archive:
        assert archive.files == list(maps)
        arrays = {task: archive[task] for task in archive.files}
    for task, path in zip(maps, paths, strict=False):
        want = maps[task].at_image_size() if native else np.asarray(maps[task])
        assert arrays[task].dtype == maps[task].dtype
        np.testing.assert_array_equal(arrays[task], want)
        picture = Image.open(path)
        assert picture.size == (size[1], size[0])
        mode, scale, bits = {
            "argmax": ("P", 1, 8),
            "clamp": ("I;16", 1000, 16),
            "unit_vector": ("RGB", 127.5, 8),
        }.get(maps[task].spec.decode, ("L", 255, 8))
        assert (picture.mode, bit_depth(path)) == (mode, bits), task
        pixels = np.asarray(picture).astype(np.float64)
        shift = 127.5 if mode == "RGB" else 0
        assert np.abs(pixels - (want.astype(np.float64) * scale + shift)).max() <= 0.5 + 1e-9, task


def test_labels_are_indices_and_look_like_colours(maps, tmp_path):
    for task in ("semseg", "human_parts"):
        paths = dict(zip(maps, maps.save(tmp_path), strict=False))
        picture = Image.open(paths[task])
        np.testing.assert_array_equal(np.asarray(picture), maps[task])
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), maps[task].colour())


def test_every_label_keeps_its_index(tmp_path):
    (path, _) = saved(tmp_path, semseg=np.arange(256).reshape(16, 16))
    picture = Image.open(path)
    np.testing.assert_array_equal(np.asarray(picture), np.arange(256).reshape(16, 16))
    assert np.asarray(picture.convert("RGB"))[15, 15].tolist() == [0, 0, 0]  # no label: black
    (path, _) = saved(tmp_path, human_parts=[[0, 1]])  # a palette of 7 colours
    assert bit_depth(path) == 8


def test_depth_is_in_millimetres(tmp_path):
    metres = [[0, 0.0014, 0.0016, 1.5], [65.535, 65.6, np.inf, np.nan]]
    (path, archive) = saved(tmp_path, depth=metres)
    picture = Image.open(path)
    assert picture.mode == "I;16"
    assert np.asarray(picture).tolist() == [[0, 1, 2, 1500], [65535, 65535, 65535, 0]]
    with np.load(archive) as arrays:
        np.testing.assert_array_equal(arrays["depth"], np.array(metres, np.float32))


def test_probabilities_and_normals_fill_a_byte(tmp_path):
    vectors = [[(1, 0, 0), (0, -1, 0), (0, 0, -1)]]
    paths = saved(tmp_path, edge=[[0, 0.25, 1]], saliency=[[1, 0.5, 0.001]], normals=vectors)
    edge, saliency, normals = (np.asarray(Image.open(path)).tolist() for path in paths[:3])
    assert edge == [[0, 64, 255]]
    assert saliency == [[255, 128, 0]]
    assert normals == [[[255, 128, 128], [128, 0, 128], [128, 128, 0]]]


def test_saving_again_replaces_the_files(maps, tmp_path):
    first = maps.save(tmp_path, "a")
    other = Maps({"edge": maps["saliency"]})
    other["edge"] = TaskMap(np.zeros((4, 5), np.float32), maps["edge"].spec, maps["edge"].placement)
    again = other.save(str(tmp_path), "a")
    assert set(again) < set(first)
    assert Image.open(again[0]).size == (5, 4)
    with np.load(again[1]) as archive:
        assert archive.files == ["edge"]


def test_a_folder_that_is_a_file(maps, tmp_path):
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"out: is a file, expected a folder"):
        maps.save(path)
    with pytest.raises(OutputError, match="out"):
        maps.save(path / "below")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_a_folder_is_found_before_anything_is_written(maps, tmp_path):
    (tmp_path / "maps.npz").mkdir()
    with pytest.raises(OutputError, match=r"maps\.npz: is a folder, expected a file"):
        maps.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["maps.npz"]


@pytest.mark.parametrize("stem", ["", "a/b", "/tmp/a", "a/"])
def test_a_stem_is_a_file_name(maps, tmp_path, stem):
    with pytest.raises(ConfigError, match=r"stem: got '.*expected the beginning of a file name"):
        maps.save(tmp_path / "out", stem)
    assert not (tmp_path / "out").exists()
