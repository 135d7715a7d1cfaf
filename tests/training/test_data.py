"""Readers give back what was written; what cannot be a label is refused by name."""

import json
import tarfile
import zipfile

import numpy as np
import pytest
from degmix_training import data
from degmix_training.data import _augment, synthetic
from degmix_training.data._check import check, check_archive, detect
from degmix_training.data._sample import Sample
from layouts import IDS, LAYOUTS, PART_NAMES, SIZE, nyud, save, scene, semseg_of

from degmix_edge.errors import ConfigError, InputError
from degmix_edge.preprocess import Fit
from degmix_edge.workflows.sources import images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp("data")
    made = {name: make(base / name) for name, make in LAYOUTS.items()}
    return made | {"NYUD_MT": nyud(base / "NYUD_MT", "NYUD_MT")}


def copy(roots, name, tmp_path):
    return (nyud if name == "NYUD_MT" else LAYOUTS[name])(tmp_path / name)


CASES = ["nyud", "NYUD_MT", "pascal_context", "cityscapes", "folder"]


@pytest.mark.parametrize("name", CASES)
def test_every_layout_is_known_and_clean(roots, name):
    source = detect(roots[name])
    assert source.name == ("nyud" if name == "NYUD_MT" else name)
    report = check(source)
    known = [f for f in report.findings if "its list has" not in f]  # four images are not 795
    assert known == []
    for row in report.rows:
        assert row.found == row.expected == len(IDS[row.split])
        assert row.low is not None or row.what in ("images", "human_parts")


@pytest.mark.parametrize("name", CASES)
def test_samples_are_what_was_written(roots, name):
    source = data.open_data("nyud" if name == "NYUD_MT" else name, roots[name], SIZE)
    for split, ids in IDS.items():
        samples = source.open_split(split, tuple(source.classes))
        assert len(samples) == len(ids)
        assert len(source.open_split(split, ("semseg",), 1)) == 1
        for sample, number in zip(samples, ids, strict=True):
            want = scene(number)
            assert set(sample.labels) == set(source.classes)
            mean_error = np.abs(sample.image.astype(int) - want.image).mean()
            assert mean_error == 0 if name not in ("NYUD_MT", "pascal_context") else mean_error < 12
            compare(name, sample.labels, want)


def compare(name, labels, want):
    semseg = want.semseg if name == "pascal_context" else semseg_of(want)
    if name == "cityscapes":  # the ten ids written are the first ten of the nineteen classes
        semseg = semseg_of(want)
    np.testing.assert_array_equal(labels["semseg"], semseg)
    assert labels["semseg"].dtype == np.uint8
    if "depth" in labels:
        assert labels["depth"].dtype == np.float32
        tolerance = {"nyud": 0, "NYUD_MT": 0, "folder": 1.1e-3}.get(name)
        if tolerance is None:
            assert (labels["depth"][:, :3] == 0).all()
            # Half a 256th of a pixel of disparity, at depth z and focal length x baseline 120.
            error = np.abs(labels["depth"] - want.depth)[:, 3:]
            assert (error <= 1.01 * want.depth[:, 3:] ** 2 / 120 / 512 + 1e-5).all()
        else:
            np.testing.assert_allclose(labels["depth"], want.depth, atol=tolerance, rtol=0)
    if "normals" in labels:
        length = np.linalg.norm(labels["normals"], axis=-1)
        np.testing.assert_allclose(length, 1, atol=1e-5)
        np.testing.assert_allclose(labels["normals"], want.normals, atol=0.01)
    if "edge" in labels and name != "pascal_context":
        np.testing.assert_array_equal(labels["edge"], want.edge)
    if "saliency" in labels:
        np.testing.assert_array_equal(labels["saliency"], want.saliency)
    if "human_parts" in labels:
        if name == "pascal_context" and not want.human_parts.any():
            assert (labels["human_parts"] == 255).all()
        else:
            np.testing.assert_array_equal(labels["human_parts"], want.human_parts)


def test_pascal_edges_are_thin_and_lie_between_classes(roots):
    source = detect(roots["pascal_context"])
    for name in IDS["train"]:
        edge, classes = source.read_label("edge", name, SIZE), scene(name).semseg
        change = np.zeros(SIZE, bool)
        change[:, 1:] |= classes[:, 1:] != classes[:, :-1]
        change[1:] |= classes[1:] != classes[:-1]
        change[:, :-1] |= classes[:, 1:] != classes[:, :-1]
        change[:-1] |= classes[1:] != classes[:-1]
        assert set(np.unique(edge)) <= {0, 1}
        assert change[edge == 1].all()
        blocks = edge[1:, 1:] & edge[:-1, 1:] & edge[1:, :-1] & edge[:-1, :-1]
        assert blocks.sum() <= 0.05 * edge.sum()


def test_pascal_part_names_cover_all_six():
    from degmix_training.data.pascal_context import PART_OF

    assert {PART_OF[name] for name in PART_NAMES.values()} == set(range(1, 7))
    assert [PART_OF[name] for name in PART_NAMES.values()] == list(PART_NAMES)
    assert len(PART_OF) == 24


def test_pascal_normals_are_kept_where_nyud_has_the_class(roots, tmp_path):
    root = copy(roots, "pascal_context", tmp_path)
    # Written as classes 1 to 10 of the context list.
    names = ["wall", "floor", "sky", "door", "tree", "table", "car", "cat", "dog", "person"]
    lines = [f"{i + 1}: {name}" for i, name in enumerate(names)]
    (root / "pascal-context/labels.txt").write_text("\n".join(lines))
    source = detect(root)
    assert source.indoor == [1, 2, 4, 6, 10]
    normals = source.read_label("normals", "0001", SIZE)
    kept = np.isin(scene("0001").semseg + 1, source.indoor)
    np.testing.assert_array_equal(np.abs(normals).sum(-1) > 0, kept)


def refuse(name, root, tasks, match, kind=InputError, split="train"):
    with pytest.raises(kind, match=match):
        [*data.open_data(name, root, SIZE).open_split(split, tasks)]


def test_what_is_refused(roots, tmp_path):
    root = copy(roots, "nyud", tmp_path)
    refuse("nyud", None, ("semseg",), "needs its folder", ConfigError)
    refuse("nyud", root, ("saliency",), "no labels for task 'saliency'; it has", ConfigError)
    refuse("nyud", root, ("semseg",), "no split 'test'", ConfigError, "test")
    label = root / "segmentation/0002.png"
    good = label.read_bytes()
    save(label, np.full(SIZE, 41, np.uint8))
    refuse("nyud", root, ("semseg",), r"0002\.png: label value 41, expected 0")
    save(label, np.zeros((10, 12), np.uint8))
    refuse("nyud", root, ("semseg",), r"0002\.png: is 10x12 pixels and its image .*48x64")
    label.write_bytes(good[:40])
    refuse("nyud", root, ("semseg",), r"0002\.png: damaged or cut off")
    label.unlink()
    refuse("nyud", root, ("semseg",), r"0002\.png: missing, the semseg label")
    depth = root / "depth/0003.npy"
    save(depth, np.full(SIZE, -1, np.float32))
    refuse("nyud", root, ("depth",), r"0003\.npy: depth value -1\.0")
    depth.write_bytes(depth.read_bytes()[:200])
    refuse("nyud", root, ("depth",), r"0003\.npy: damaged or cut off")
    for path in (root / "edge").iterdir():
        path.unlink()
    (root / "edge").rmdir()
    refuse("nyud", root, ("edge",), "label folder .*edge is missing", ConfigError)
    findings = "\n".join(check(detect(root)).findings)
    assert "train edge: 0 of 4 files; missing 0001" in findings
    assert "was its archive unpacked here?" in findings
    assert "train semseg: 3 of 4 files; missing 0002: the archive was probably cut off" in findings
    assert "0003.npy: damaged or cut off" in findings


def test_layouts_are_never_mixed(roots, tmp_path):
    root = copy(roots, "nyud", tmp_path)
    save(root / "normals/0001.npy", scene("0001").normals)
    with pytest.raises(InputError, match=r"mixes two layouts.*normals/\*\.npy of NYUD_MT"):
        detect(root)


def test_mixed_sizes_are_found(roots, tmp_path):
    root = copy(roots, "nyud", tmp_path)
    big = scene("0001", (60, 80))
    save(root / "images/0001.png", big.image)
    findings = "\n".join(check(detect(root)).findings)
    assert "mixed sizes" in findings
    assert "0001.png: is 48x64 pixels and its image" in findings


def test_folders_of_ones_own(roots, tmp_path):
    root = copy(roots, "folder", tmp_path)
    (root / "train/flow").mkdir()
    with pytest.raises(ConfigError, match="no task 'flow'"):
        detect(root)
    (root / "train/flow").rmdir()
    (root / "classes.yaml").write_text("semseg: 3\n")
    with pytest.raises(ConfigError, match="classes.yaml: expected lines"):
        detect(root)
    (root / "classes.yaml").unlink()
    with pytest.raises(ConfigError, match="no class names for task 'semseg'"):
        detect(root)
    (root / "classes.yaml").write_text("semseg: [a, b]\n")
    refuse("folder", root, ("semseg",), r"0001\.png: label value \d, expected 0 to 1, or 255")


RAW_IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 24007])
"""Ids in the place of classes 0 to 9; the last is one of 16 bits."""


def with_ids(root):
    """The same folder with other ids, and its label map, which names classes in every way."""
    for path in root.glob("*/semseg/*.png"):
        label = data.find("folder")._classes(path)
        ids = RAW_IDS[np.minimum(label, 9)]
        ids[label == 255] = -1
        if path.stem == "0001":  # of a file with a negative id
            save(path.with_suffix(".npy"), ids.astype(np.int32))
            path.unlink()
        else:
            save(path, np.where(ids < 0, 4, ids).astype(np.uint16))
    for path in root.glob("*/edge/*.png"):
        save(path, np.where(data.find("folder")._binary(path), 24, 0).astype(np.uint8))
    names = synthetic.CLASSES["semseg"]
    lines = [f"  {key}: {names[i] if i % 2 else i}" for i, key in enumerate(RAW_IDS)]
    lines += ["  4: ignored", "  -1: 255", "edge: {0: 0, 24: 1}"]
    return "\n".join(["semseg:", *lines]) + "\n"


@pytest.mark.parametrize("place", ["folder", "option"])
def test_label_ids_are_mapped_to_classes(roots, tmp_path, place):
    root = copy(roots, "folder", tmp_path)
    path = (root if place == "folder" else tmp_path) / "label_map.yaml"
    path.write_text(with_ids(root))
    source = data.open_data("folder", root, SIZE, None if place == "folder" else path)
    for split, ids in IDS.items():
        for sample, name in zip(source.open_split(split, ("semseg", "edge")), ids, strict=True):
            want = semseg_of(scene(name))
            np.testing.assert_array_equal(sample.labels["semseg"], want)
            assert sample.labels["semseg"].dtype == np.uint8
            np.testing.assert_array_equal(sample.labels["edge"], scene(name).edge)
    if place == "folder":
        assert check(detect(root)).findings == []


def test_ids_that_are_not_listed_are_refused_with_their_counts(roots, tmp_path):
    root = copy(roots, "folder", tmp_path)
    text = with_ids(root)
    path = root / "label_map.yaml"
    path.write_text(text.replace("  4: ignored\n", "").replace("  24007: person\n", ""))
    people = int((semseg_of(scene("0002"))[2:] == 9).sum())
    ignored = 2 * SIZE[1]
    words = f"semseg has the ids 4 ({ignored} pixels)"
    words += f", 24007 ({people} pixels)" if people else ""
    samples = data.open_data("folder", root, SIZE).open_split("train", ("semseg",))
    with pytest.raises(InputError) as caught:
        samples[1]
    assert str(caught.value) == (
        f"{root}/train/semseg/0002.png: {words}, which {path} does not list; add each with its "
        "class, or as `4: ignored`"
    )
    many = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) + 100
    save(root / "train/semseg/0001.npy", many)
    with pytest.raises(InputError, match=r"107 \(1 pixel\) and \d+ more, which"):
        samples[0]
    save(root / "train/semseg/0001.npy", many + 0.5)
    with pytest.raises(InputError, match="float64 values, expected the integer ids"):
        samples[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("semseg: 3", "expected a task, and below it lines `ID: CLASS`"),
        ("semsegg: {7: 0}", "no task with classes 'semsegg'.*Did you mean 'semseg'"),
        ("depth: {7: 0}", "no task with classes 'depth'"),
        ("semseg: {}", "task 'semseg' lists no ids"),
        ("semseg: {7: walll}", "no class 'walll'.*Did you mean 'wall'"),
        ("semseg: {7: 10}", "got the class 10, expected 0 to 9, a class name, or 'ignored'"),
        ("semseg: {7: true}", "got the class True"),
        ("semseg: {road: 0}", "semseg has the id 'road', expected an integer"),
        ("edge: {7: 2}", "got the class 2, expected 0 to 1"),
    ],
)
def test_label_maps_that_do_not_fit(roots, tmp_path, text, message):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        data.open_data("folder", roots["folder"], SIZE, path)
    assert str(path) in str(caught.value)


def test_label_maps_of_what_has_none(roots, tmp_path):
    with pytest.raises(ConfigError, match="no such label map"):
        data.open_data("folder", roots["folder"], SIZE, tmp_path / "none.yaml")
    for name, root in (("cityscapes", roots["cityscapes"]), ("synthetic", None)):
        with pytest.raises(ConfigError, match=f"data set '{name}' has ids of its own"):
            data.open_data(name, root, SIZE, tmp_path / "map.yaml")
    for source in ("photos", str(tmp_path)):
        with pytest.raises(ConfigError, match="has no labels; give a folder that has them as"):
            images(source, Fit(height=48, width=64), label_map=tmp_path / "map.yaml")


def test_eval_and_compare_score_mapped_ids(roots, tmp_path, checkpoint_path, bundles, cli):
    plain, mapped = roots["folder"], copy(roots, "folder", tmp_path)
    (tmp_path / "ids.yaml").write_text(with_ids(mapped))
    compare = ("compare", bundles["fp32"].path, checkpoint_path, "--max-drop", "1000")
    for verb, key in ((("eval", checkpoint_path), "scores"), (compare, "comparison")):
        found = []
        for more in (["--data", f"folder:{plain}"], ["--data", f"folder:{mapped}"]):
            more += ["--label-map", "ids.yaml"] * (len(found) == 1)
            code, out, err = cli(*verb, *more, "--json")
            assert code == 0, err
            found.append(json.loads(out)[key])
        assert found[0] == found[1]
    code, _, err = cli("eval", checkpoint_path, "--data", f"folder:{mapped}")
    assert code == 4
    assert "0005.png: label value 24007, expected at most 255" in err


def test_places_that_are_no_data_set(roots, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        detect(tmp_path / "none")
    with pytest.raises(InputError, match="found nothing"):
        detect(tmp_path)
    copy(roots, "nyud", tmp_path)
    with pytest.raises(InputError, match=r"Did you mean .*nyud\?"):
        detect(tmp_path)
    with pytest.raises(InputError, match="no Cityscapes"):
        data.open_data("cityscapes", roots["nyud"], SIZE)
    with pytest.raises(InputError, match="no PASCAL-Context"):
        data.open_data("pascal_context", roots["nyud"], SIZE)
    with pytest.raises(InputError, match="no NYUD-v2"):
        data.open_data("nyud", roots["folder"], SIZE)


def test_archives(roots, tmp_path):
    packed = tmp_path / "a.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(roots["nyud"], "NYUDv2")
    files = sum(path.is_file() for path in roots["nyud"].rglob("*"))
    assert check_archive(packed) == files
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(packed.read_bytes()[: packed.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=r"cut off or damaged after \d+ files \(last whole one:"):
        check_archive(cut)
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(roots["nyud"] / "images/0001.png")
    assert check_archive(zipped) == 1
    page = tmp_path / "b.tar.gz"
    page.write_text("<html>quota exceeded</html>")
    with pytest.raises(InputError, match="was an HTML page saved"):
        check_archive(page)


def sample_of(seed=3):
    s = scene("1")
    return Sample("s", s.image, s.labels)


def test_scaling_moves_things_nearer():
    sample = sample_of()
    twice = _augment.scale(sample, 2.0)
    assert twice.image.shape == (96, 128, 3)
    np.testing.assert_array_equal(twice.labels["semseg"][::2, ::2], sample.labels["semseg"])
    np.testing.assert_allclose(twice.labels["depth"][::2, ::2], sample.labels["depth"] / 2)
    np.testing.assert_array_equal(twice.labels["normals"][1::2, 1::2], sample.labels["normals"])
    assert _augment.scale(sample, 0.5).labels["edge"].shape == (24, 32)


def test_flipping_turns_normals():
    sample = sample_of()
    flipped = sample.flipped()
    np.testing.assert_array_equal(flipped.labels["depth"], sample.labels["depth"][:, ::-1])
    back = flipped.labels["normals"][:, ::-1]
    np.testing.assert_array_equal(back * [-1, 1, 1], sample.labels["normals"])


def test_padding_is_ignored_by_every_task():
    sample = sample_of()
    placed = _augment.place(sample, (50, 70))
    assert (placed.image[0] == (124, 116, 104)).all()
    np.testing.assert_array_equal(placed.image[1:49, 3:67], sample.image)
    for task in ("semseg", "human_parts", "saliency", "edge"):
        assert (placed.labels[task][:1] == 255).all()
        np.testing.assert_array_equal(placed.labels[task][1:49, 3:67], sample.labels[task])
    assert (placed.labels["depth"][0] == 0).all()
    assert (placed.labels["normals"][:, :3] == 0).all()
    smaller = _augment.place(sample, (40, 60))
    np.testing.assert_array_equal(smaller.image, sample.image[4:44, 2:62])


def test_crops_avoid_one_class():
    label = np.zeros((40, 400), np.uint8)
    label[:, 390:] = 1
    label[:, 380:390] = 2
    sample = Sample("s", np.zeros((40, 400, 3), np.uint8), {"semseg": label})
    rng = np.random.default_rng(0)
    crops = [_augment.crop(sample, (40, 24), rng).labels["semseg"] for _ in range(300)]
    mixed = np.mean([len(np.unique(c)) > 1 for c in crops])
    # One draw in 20 sees two classes; ten draws raise that to a third.
    assert 0.25 < mixed < 0.55
    assert all(c.shape == (40, 24) for c in crops)
    assert _augment.crop(sample, (60, 24), rng).image.shape[:2] == (40, 24)


def test_parts_without_a_person_are_ignored():
    empty = Sample("s", np.zeros((2, 2, 3), np.uint8), {"human_parts": np.zeros((2, 2), np.uint8)})
    assert (_augment.mark_ignored(empty).labels["human_parts"] == 255).all()
    some = Sample("s", empty.image, {"human_parts": np.array([[0, 1], [0, 255]], np.uint8)})
    assert _augment.mark_ignored(some) is some


def test_photometric_changes_stay_in_range():
    image = sample_of().image
    rng = np.random.default_rng(1)
    changed = [_augment.photometric(image, rng) for _ in range(64)]
    assert all(c.dtype == np.uint8 and c.shape == image.shape for c in changed)
    unchanged = np.mean([np.array_equal(c, image) for c in changed])
    assert 0 < unchanged < 0.2  # each of four changes is skipped half of the time
    means = [c.mean() - image.mean() for c in changed]
    assert min(means) < -20 < 20 < max(means)


def test_hues_are_opencvs():
    """Values that OpenCV 4.10 and 5.0 gave, with RGB2HSV and HSV2RGB on uint8."""
    hsv = [(144, 105, 209), (153, 122, 255), (13, 146, 183), (116, 107, 196), (89, 211, 127)]
    rgb = [(191, 122, 209), (255, 132, 242), (183, 123, 78), (113, 124, 196), (21, 127, 123)]
    parts = np.array(hsv, np.int32).T[..., None]
    np.testing.assert_array_equal(_augment.rgb_of(*parts)[:, 0], rgb)
    pixels = [(219, 162, 130), (255, 0, 1), (7, 7, 7), (0, 0, 0), (13, 200, 199), (90, 91, 250)]
    want = [(11, 104, 219), (180 % 180, 255, 255), (0, 0, 7), (0, 0, 0), (90, 238, 200)]
    found = np.stack(_augment.hsv_of(np.array([pixels], np.uint8)), -1)[0]
    np.testing.assert_array_equal(found[:5], want)
    np.testing.assert_array_equal(found[5], (120, 163, 250))


@pytest.mark.parametrize("factor", [0.61, 1.37, 1.9])
def test_scaling_rounds_down_and_does_not_blur(factor):
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (37, 53, 3), np.uint8), rng.integers(0, 40, (37, 53))
    scaled = _augment.scale(Sample("s", image, {"semseg": label}), factor)
    size = (int(37 * factor), int(53 * factor))
    assert scaled.image.shape == (*size, 3)
    for y, x in np.ndindex(*size):
        assert scaled.labels["semseg"][y, x] == label[y * 37 // size[0], x * 53 // size[1]]
    for y, x in [(0, 0), (5, 7), (size[0] - 1, size[1] - 1)]:
        want = np.zeros(3)
        for row, share in _two((y + 0.5) * 37 / size[0] - 0.5, 37):
            for column, part in _two((x + 0.5) * 53 / size[1] - 0.5, 53):
                want += share * part * image[row, column]
        assert (np.abs(scaled.image[y, x] - np.floor(want)) <= 1).all()
        assert (scaled.image[y, x] <= want + 1e-3).all()


def _two(place, side):
    """The two pixels around a place, and their shares."""
    low = int(np.floor(place))
    pair = ((low, 1 - (place - low)), (low + 1, place - low))
    return [(min(max(pixel, 0), side - 1), share) for pixel, share in pair]


def test_zooming_magnifies_the_middle_and_brings_it_nearer():
    sample = sample_of()
    zoomed = _augment.zoom(sample, 1.5)
    height, width = sample.image.shape[:2]
    assert zoomed.image.shape == sample.image.shape
    assert _augment.zoom(sample, 1.0) is sample
    for y, x in [(0, 0), (20, 30), (height - 1, width - 1)]:
        row = int(np.floor((y - height / 2) / 1.5 + height / 2 + 0.5))
        column = int(np.floor((x - width / 2) / 1.5 + width / 2 + 0.5))
        assert zoomed.labels["semseg"][y, x] == sample.labels["semseg"][row, column]
        depth = sample.labels["depth"][row, column]
        assert zoomed.labels["depth"][y, x] == pytest.approx(depth / 1.5)
    middle = (height // 2, width // 2)
    np.testing.assert_allclose(zoomed.image[middle], sample.image[middle], atol=1)
    length = np.linalg.norm(zoomed.labels["normals"], axis=2)
    assert (np.isclose(length, 1, atol=1e-5) | (length < 1e-5)).all()
    tasks = ("semseg", "depth", "normals")
    augmented = _augment.Augmented([sample], tasks, (50, 70), "zoom", 0)
    shapes = {augmented[epoch, 0].image.shape for epoch in range(4)}
    assert shapes == {(50, 70, 3)}


def test_contrast_comes_second_or_last():
    """On grey, saturation and hue change nothing, and on colours the two orders differ."""
    image = np.full((4, 4, 3), (250, 30, 10), np.uint8)
    found = {tuple(_augment.photometric(image, np.random.default_rng(s))[0, 0]) for s in range(300)}
    assert len(found) > 100
    grey = np.full((4, 4, 3), 200, np.uint8)
    for seed in range(40):
        changed = _augment.photometric(grey, np.random.default_rng(seed))
        assert (changed == changed[..., :1]).all()


def test_a_sample_depends_on_seed_epoch_and_index_only():
    samples = [sample_of()]
    make = lambda seed: _augment.Augmented(samples, ("semseg",), SIZE, "published", seed)  # noqa: E731
    first, again, other = make(0), make(0), make(1)
    again[1, 0]  # another draw in between
    np.testing.assert_array_equal(first[0, 0].image, again[0, 0].image)
    assert not np.array_equal(first[0, 0].image, first[1, 0].image)
    assert not np.array_equal(first[0, 0].image, other[0, 0].image)
    assert set(first[0, 0].labels) == {"semseg"}
