"""A checkpoint scored in parts: the values of one process, slices, and intervals."""

import dataclasses
import datetime
import re

import numpy as np
import pytest

from degmix_edge import metrics, tasks
from degmix_edge.errors import BundleError, ConfigError
from degmix_edge.workflows.compare import compare, compare_engines
from degmix_edge.workflows.compare_parts import ComparisonPart, compare_part
from degmix_edge.workflows.comparison import slice_table
from degmix_edge.workflows.evaluate import evaluate
from degmix_edge.workflows.sliced import Cut, Facts, Tallies, facts_of, slices_of

pytestmark = pytest.mark.slow(file_seconds=20)
DATA = "synthetic:19"


@pytest.fixture(scope="module")
def plain(checkpoint_path):
    """Scores of one metric over all images, in one process."""
    return evaluate(checkpoint_path, data=DATA)


def test_slices_do_not_change_the_scores(checkpoint_path, plain):
    found = evaluate(checkpoint_path, data=DATA, slices="brightness,class", bootstrap=40)
    assert found.scores == plain.scores
    whole, *parts = found.slices
    assert (whole.slice, whole.images) == ("all", 19)
    assert whole.values == {task: score.value for task, score in plain.scores.items()}
    for task, (low, high) in whole.intervals.items():
        assert low <= high, task
    by_brightness = [part for part in parts if part.slice.startswith("brightness=")]
    assert sum(part.images for part in by_brightness) == 19
    assert any(part.slice.startswith("class=semseg=") for part in parts)
    title, rows = found.tables()[-1]
    assert "slices" in title
    assert rows[0][:2] == ["slice", "images"]
    assert " to " in rows[1][2]
    assert found.values()["slices"] == found.slices
    assert "slices" not in plain.values()


def test_two_processes_give_the_scores_of_one(checkpoint_path, plain):
    found = evaluate(checkpoint_path, data=DATA, workers=2)
    assert found.scores == plain.scores
    assert found.slices == ()


def test_wrong_options_are_refused(checkpoint_path):
    with pytest.raises(ConfigError, match="no kind of slice 'colour'"):
        evaluate(checkpoint_path, data=DATA, slices="colour")
    with pytest.raises(ConfigError, match="workers: got 0"):
        evaluate(checkpoint_path, data=DATA, workers=0)


# Slices


def facts(name, brightness=0.3, classes=()):
    return Facts(name, brightness, classes)


def test_images_are_cut_by_what_they_have_in_common():
    noon = int(datetime.datetime(2026, 5, 1, 12, 30, tzinfo=datetime.timezone.utc).timestamp())
    found = [
        facts("a/1.png", 0.1, ("semseg=floor", "semseg=wall")),
        facts("b/2.png", 0.6, ("semseg=wall",)),
        facts(f"a/c/{noon}000000000.png", 0.3),
        facts("4.png", 1.0),
    ]
    assert slices_of(found, ["folder"]) == {"folder=a": [0], "folder=a/c": [2], "folder=b": [1]}
    assert slices_of(found, ["time"]) == {"time=12h": [2]}
    assert slices_of(found, ["brightness", "class"]) == {
        **{"brightness=bright": [1, 3], "brightness=dark": [0], "brightness=medium": [2]},
        **{"class=semseg=floor": [0], "class=semseg=wall": [0, 1]},
    }


def test_a_class_is_present_where_a_labelled_pixel_has_it():
    spec = tasks.find("semseg").spec(("floor", "wall", "door"))
    depth = tasks.find("depth").spec()
    label = np.array([[0, 255], [2, 2]], np.uint8)
    image = np.full((2, 2, 3), 51, np.uint8)
    found = facts_of(
        "x", image, {"semseg": label, "depth": label}, {"semseg": spec, "depth": depth}
    )
    assert found == Facts("x", 0.2, ("semseg=floor", "semseg=door"))


def test_a_slice_has_the_metric_of_its_images():
    rng = np.random.default_rng(0)
    maps = rng.uniform(1, 3, (6, 4, 5))
    labels = rng.uniform(1, 3, (6, 4, 5))
    tallies = Tallies({"depth": metrics.find("rmse")()})
    for index in range(6):
        kind = facts(f"{'ab'[index % 2]}/{index}")
        tallies.add(kind, {"depth": maps[index]}, {"depth": labels[index]})
    whole, a, b = tallies.scores(["folder"], draws=100)
    for part, rows in ((whole, slice(None)), (a, slice(0, None, 2)), (b, slice(1, None, 2))):
        expected = np.sqrt(((maps[rows] - labels[rows]) ** 2).mean())
        assert part.values["depth"] == pytest.approx(expected)
        low, high = part.intervals["depth"]
        assert low < expected < high


# Comparisons


CUT = {"data": "synthetic:6", "threads": 1, "slices": "brightness", "bootstrap": 60}


@pytest.fixture(scope="module")
def cut(bundles, checkpoint_path, tmp_path_factory):
    """A comparison in parts of the images, in one process, and its page."""
    page = tmp_path_factory.mktemp("cut") / "page.html"
    (found,) = compare_engines(bundles["int8"], checkpoint_path, report=page, **CUT).values()
    return found, page.read_text()


def test_a_comparison_has_slices_and_intervals_and_the_same_values(bundles, checkpoint_path, cut):
    plain = compare(bundles["int8"], checkpoint_path, data="synthetic:6", threads=1)
    found, page = cut
    assert found.slices
    assert sum(part.images for part in found.slices) == 6
    for task, result in found.tasks.items():
        assert dataclasses.replace(result, interval=None) == plain.tasks[task]
        low, high = result.interval
        assert low <= high
    assert (found.passed, found.verdict) == (plain.passed, plain.verdict)
    assert "slices" not in plain.values()
    assert "interval" not in plain.values()["tasks"][0]
    assert len(found.values()["slices"]) == len(found.slices)
    title, columns, rows = slice_table(found)
    assert columns[:2] == ["slice", "images"]
    assert rows[0][0] == "all"
    assert " to " in rows[0][2]
    if len(found.slices) == 1:
        only = found.slices[0]
        assert only.intervals == {task: r.interval for task, r in found.tasks.items()}
    assert title in page


def test_two_processes_compare_as_one(bundles, checkpoint_path, cut, tmp_path):
    page = tmp_path / "page.html"
    (found,) = compare_engines(
        bundles["int8"], checkpoint_path, report=page, workers=2, **CUT
    ).values()
    assert found == cut[0]
    pictures = [re.findall(r'src="(data:[^"]+)"', text) for text in (cut[1], page.read_text())]
    assert pictures[0]
    assert pictures[0] == pictures[1]


def test_a_bundle_that_was_replaced_during_a_comparison_is_refused(bundles, checkpoint_path):
    int8 = bundles["int8"]
    rest = (None, checkpoint_path, "synthetic:2", None, None, None, Cut(), False, 1)
    part = ComparisonPart(str(bundles["fp32"].path), int8.digest, *rest)
    with pytest.raises(BundleError, match="was replaced during the run"):
        compare_part(part, "onnxruntime", 0, 1, 1)


def test_what_no_other_process_can_compare_is_refused(bundles, checkpoint_path):
    class Local(metrics.find("rmse")):
        """A metric that no other process can import."""

    options = {"data": "synthetic:2", "threads": 1, "workers": 2}
    with pytest.raises(ConfigError, match="cannot be sent to other processes .*Local"):
        compare(bundles["int8"], checkpoint_path, metrics={"depth": Local}, **options)
    with pytest.raises(ConfigError, match="workers: got 0"):
        compare(bundles["int8"], checkpoint_path, data="synthetic:2", workers=0)
