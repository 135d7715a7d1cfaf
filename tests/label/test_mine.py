"""`mine` over labels of real bundles, against slow and obvious rankings."""

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from test_label import BUNDLE, here, picture, png, rows, write_tar

pytest.importorskip("duckdb")

from degmix_edge.bundle.contents import open_bundle  # noqa: E402
from degmix_edge.errors import ConfigError, InputError, OutputError  # noqa: E402
from degmix_edge.preprocess import read_image  # noqa: E402
from degmix_edge.runtime import load  # noqa: E402
from degmix_edge.runtime.saving import encode, read_map  # noqa: E402
from degmix_edge.workflows.calibration import calibration_images  # noqa: E402
from degmix_edge.workflows.mine import mine  # noqa: E402
from degmix_edge.workflows.mine.table import difference  # noqa: E402

pytestmark = pytest.mark.slow(file_seconds=15)
COUNT = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_tar(folder / "a.tar", range(4))
    for number in range(4, COUNT):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


@pytest.fixture(scope="module")
def labels(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "out"
    here(source, out, tasks=("semseg", "saliency", "depth"))
    return out


def ranks(values) -> np.ndarray:
    """Shares of the other values that are smaller."""
    values = np.array(values)
    return np.array([(values < value).sum() for value in values]) / (len(values) - 1)


def test_the_least_certain_images_come_first(labels, tmp_path):
    found = mine(labels, tmp_path / "out", k=3)
    table = rows(labels)
    scores = (
        ranks([r["semseg_entropy"] for r in table]) + ranks([r["saliency_entropy"] for r in table])
    ) / 2
    expected = sorted(range(COUNT), key=lambda i: (-scores[i], table[i]["name"]))[:3]
    assert [one.name for one in found.chosen] == [table[i]["name"] for i in expected]
    assert [one.score for one in found.chosen] == pytest.approx([scores[i] for i in expected])
    assert found.among == COUNT
    only = mine(labels, tmp_path / "one", k=1, tasks="semseg")
    assert only.chosen[0].name == max(table, key=lambda row: row["semseg_entropy"])["name"]


def test_the_folder_is_one_that_calibration_takes(labels, tmp_path):
    found = mine(labels, tmp_path / "out", k=4)
    fit = open_bundle(BUNDLE).manifest.fit
    with pytest.warns(match="4 images"):
        named = calibration_images(str(found.images), fit)
    with (tmp_path / "out" / "chosen.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == [item.name for item in named]
    for row, item in zip(table, named, strict=True):
        number = int(Path(row["name"]).stem)
        assert np.array_equal(item.image, picture(number))
    sheet = PIL.Image.open(tmp_path / "out" / "sheet.png")
    assert sheet.width > 3 * 192
    assert sheet.height > 4 * 128


def test_two_bundles_disagree_where_their_maps_differ(bundles, source, tmp_path):
    names = ("semseg", "normals", "depth")
    outs = {}
    for precision in ("fp32", "int8"):
        outs[precision] = tmp_path / precision
        here(source, outs[precision], bundle=bundles[precision].path, tasks=names)
    found = mine(outs["int8"], tmp_path / "out", by="disagreement", against=outs["fp32"], k=2)
    differences = []
    with load(bundles["fp32"], threads=1) as a, load(bundles["int8"], threads=1) as b:
        for number in range(COUNT):
            x, y = a(png(number)), b(png(number))
            spec = a.spec
            pairs = {
                n: [read_map(encode(np.asarray(m[n]), spec.task(n)), spec.task(n)) for m in (x, y)]
                for n in names
            }
            lengths = [np.linalg.norm(v, axis=-1) for v in pairs["normals"]]
            cosine = (pairs["normals"][0] * pairs["normals"][1]).sum(-1) / (lengths[0] * lengths[1])
            depths = [v.astype(float) for v in pairs["depth"]]
            differences.append(
                [
                    (pairs["semseg"][0] != pairs["semseg"][1]).mean(),
                    np.arccos(np.clip(cosine, -1, 1)).mean() / np.pi,
                    np.abs(depths[0] - depths[1]).mean() / (sum(depths) / 2).mean(),
                ]
            )
    scores = np.mean([ranks(column) for column in np.array(differences).T], axis=0)
    best = sorted(scores)[::-1][:2]
    assert [one.score for one in found.chosen] == pytest.approx(best)
    with pytest.raises(InputError, match="equal maps of every image"):
        mine(outs["int8"], tmp_path / "x", by="disagreement", against=outs["int8"])


def test_equal_maps_do_not_differ():
    spec = open_bundle(BUNDLE).manifest.network.task("normals")
    vectors = np.random.default_rng(0).normal(size=(5, 6, 3))
    assert difference(vectors, 3 * vectors, spec) < 1e-9
    assert difference(vectors, -vectors, spec) == pytest.approx(1)
    assert difference(vectors, vectors[:4], spec) == 1


def test_novelty_is_far_from_the_calibration_set_and_from_itself(labels, source, tmp_path):
    calibration = tmp_path / "calibration"
    calibration.mkdir()
    (calibration / "4.png").write_bytes(png(4))
    found = mine(labels, tmp_path / "out", by="novelty", calibration=calibration, k=COUNT)
    names = [one.name for one in found.chosen]
    assert "4.png" not in names  # it equals what the set has
    assert len(names) == COUNT - 1
    scores = [one.score for one in found.chosen]
    assert scores == sorted(scores, reverse=True)
    dark = tmp_path / "dark"
    dark.mkdir()
    PIL.Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(dark / "0.png")
    (dark / "1.png").write_bytes(png(5))
    here(dark, tmp_path / "night", tasks=("depth",))
    (first,) = mine(
        tmp_path / "night", tmp_path / "n", by="novelty", calibration=calibration, k=1
    ).chosen
    assert first.name == "0.png"
    assert read_image(tmp_path / "n" / "images" / "0-0.png").max() == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"by": "luck"}, ConfigError, "expected uncertainty, disagreement, novelty"),
        ({"by": "disagreement"}, ConfigError, "expected the labels of another bundle"),
        ({"against": "x"}, ConfigError, "and none else"),
        ({"calibration": "x"}, ConfigError, "only by novelty"),
        ({"k": 0}, ConfigError, "k: got 0"),
        ({"tasks": "normals"}, ConfigError, "has no task 'normals'"),
    ],
)
def test_wrong_options_are_refused(options, error, text, labels, tmp_path):
    with pytest.raises(error, match=text):
        mine(labels, tmp_path / "out", **options)


def test_what_is_no_output_of_label_is_refused(labels, tmp_path):
    with pytest.raises(InputError, match="expected an output of `label`"):
        mine(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    with pytest.raises(OutputError, match="has files; give --force"):
        mine(labels, tmp_path / "full")


def test_a_source_that_is_gone_is_said(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(2):
        (source / f"{number}.png").write_bytes(png(number))
    here(source, tmp_path / "labels", tasks=("semseg",))
    (source / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png"):
        mine(tmp_path / "labels", tmp_path / "out")
