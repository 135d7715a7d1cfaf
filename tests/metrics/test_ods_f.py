import json
import math
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ods_f import places, slow_matching, slow_ods_f, slow_suppress, slow_thin

from degmix_edge.errors import BackendError, ConfigError, InputError, OutputError, ShapeError
from degmix_edge.metrics import _counting_queue, ods_f
from degmix_edge.metrics._matching import Matching, within
from degmix_edge.metrics._ridges import suppress
from degmix_edge.metrics._thinning import thin

pytestmark = pytest.mark.slow

SEEDS = st.integers(0, 10_000)
RADII = st.floats(0, 5).map(lambda radius: round(radius, 3))
"""Not within rounding of the distance of two pixels, where nobody can say who is right."""
FEW = (0.1, 0.2, 0.4, 0.6, 0.8)


def blur(values):
    for axis in (0, 1):
        values = (np.roll(values, 1, axis) + 2 * values + np.roll(values, -1, axis)) / 4
    return values


def draw(seed, height=24, width=32):
    """Crossing lines as label, ignored pixels among them; as prediction the same, moved and blurred
    and with noise.
    """
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for _ in range(4):
        y, x, angle = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
        for step in np.arange(-12, 12, 0.5):
            j, i = round(y + step * np.sin(angle)), round(x + step * np.cos(angle))
            if 0 <= j < height and 0 <= i < width:
                label[j, i : i + rng.integers(1, 3)] = 1
    moved = np.roll(label, tuple(rng.integers(-1, 2, 2)), (0, 1)).astype(np.float64)
    scores = blur(blur(moved)) * rng.uniform(1, 2.5) + 0.3 * blur(rng.random(label.shape))
    label[rng.random(label.shape) < 0.03] = 255
    scores[rng.random(label.shape) < 0.01] = np.nan
    return np.clip(scores, 0, 1).astype(np.float32), label


def of(*pairs, **keywords):
    metric = ods_f.Metric(**keywords)
    for prediction, target in pairs:
        metric.update(np.asarray(prediction), np.asarray(target))
    return metric.compute()


def line(column, begin=10, end=50, size=(60, 80)):
    """A line down a map whose diagonal is 100."""
    mask = np.zeros(size, np.float32)
    mask[begin:end, column] = 1
    return mask


# ---- slow, obvious references ----


@given(seed=SEEDS, tolerance=st.sampled_from([0.011, 0.03, 0.06]), nms=st.booleans())
@settings(max_examples=12, deadline=None)
def test_equals_the_slow_reference(seed, tolerance, nms):
    prediction, target = draw(seed)
    got = of((prediction, target), tolerance=tolerance, nms=nms, thresholds=FEW)
    expected = slow_ods_f(prediction[None], target[None], FEW, tolerance, nms)
    assert got == pytest.approx(expected, abs=1e-9)
    assert expected > 0 or tolerance < 0.03


def test_equals_the_slow_reference_at_all_thresholds():
    pair = draw(1)
    expected = slow_ods_f(*(a[None] for a in pair), tolerance=0.03)
    assert of(pair, tolerance=0.03) == pytest.approx(expected, abs=1e-9)
    assert 30 < expected < 100


@given(seed=SEEDS, shape=st.sampled_from([(24, 32), (9, 5), (3, 11), (1, 7), (6, 1), (2, 2)]))
@settings(max_examples=25, deadline=None)
def test_suppression_equals_loops(seed, shape):
    scores = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    if seed % 2 and min(shape) > 2:
        scores = ods_f.eight_bit(draw(seed, *shape)[0], np.ones(shape, bool))
    expected = slow_suppress({p: int(scores[p]) for p in places(*shape)}, *shape)
    got = suppress(scores) * 255
    np.testing.assert_allclose(
        got, [[expected[y, x] for x in range(shape[1])] for y in range(shape[0])], atol=1e-6
    )


@pytest.mark.parametrize("shape", [(24, 32), (3, 11), (1, 7), (2, 2)])
def test_smoothing_comes_before_the_suppression(shape):
    height, width = shape
    scores = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    values = {}
    for y, x in places(height, width):
        near = [
            (2 - abs(dy))
            * (2 - abs(dx))
            * int(scores[mirror(y + dy, height), mirror(x + dx, width)])
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        values[y, x] = sum(near) / 16
    expected = slow_suppress(values, height, width)
    got = suppress(scores, smooth=True) * 255
    np.testing.assert_allclose(
        got, [[expected[y, x] for x in range(width)] for y in range(height)], atol=1e-6
    )


def mirror(i, size):
    return max(0, -1 - i) if i < 0 else min(i, 2 * size - 1 - i)


def test_smoothed_counts_have_their_own_cache(tmp_path):
    pair = draw(1)
    plain = of(pair, tolerance=0.03, cache=tmp_path)
    smooth = of(pair, tolerance=0.03, cache=tmp_path, smooth=True)
    assert smooth != plain
    assert len(list(tmp_path.iterdir())) == 2
    assert of(pair, tolerance=0.03, smooth=True) == smooth


@given(seed=SEEDS, share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_thinning_equals_loops_and_scikit_image(seed, share):
    mask = np.random.default_rng(seed).random((13, 17)) < share
    if seed % 2:
        mask = np.kron(mask, np.ones((4, 3), bool))
    got = thin(mask)
    assert {tuple(p) for p in np.argwhere(got)} == slow_thin({tuple(p) for p in np.argwhere(mask)})
    morphology = pytest.importorskip("skimage.morphology")
    np.testing.assert_array_equal(got, morphology.thin(mask))


def test_thinning_a_wide_area():
    morphology = pytest.importorskip("skimage.morphology")
    mask = np.ones((101, 203), bool)
    np.testing.assert_array_equal(thin(mask), morphology.thin(mask))


@given(seed=SEEDS, radius=RADII, share=st.floats(0.02, 0.7))
@settings(max_examples=40, deadline=None)
def test_matching_from_step_to_step_equals_loops_and_scipy(seed, radius, share):
    rng = np.random.default_rng(seed)
    shape = 12, 15
    truth = rng.random(shape) < share
    pixels = np.flatnonzero(rng.random(shape) < 0.6)
    start, neighbours = within(pixels, truth, radius)
    trues = [tuple(p) for p in np.argwhere(truth).tolist()]
    matching = Matching(start, neighbours, len(trues))
    # Neither growing nor shrinking only, as thinned maps do.
    for part in (0.1, 0.5, 0.3, 1.0, 0.0, 0.7):
        chosen = rng.random(len(pixels)) < part
        predicted = [divmod(int(p), shape[1]) for p in pixels[chosen]]
        got = matching.largest(chosen)
        assert got == slow_matching(predicted, trues, radius)
        csgraph = pytest.importorskip("scipy.sparse.csgraph")
        sparse = pytest.importorskip("scipy.sparse")
        near = [[math.dist(p, t) ** 2 <= radius**2 + 1e-12 and 1 for t in trues] for p in predicted]
        if predicted and trues:
            pairs = csgraph.maximum_bipartite_matching(sparse.csr_matrix(np.array(near, int)))
            assert got == np.count_nonzero(pairs >= 0)


# ---- values known by hand ----


@pytest.mark.parametrize("nms", [True, False])
def test_a_perfect_prediction(nms):
    for target in (line(40), line(40).T, line(20) + line(60), np.eye(60) * line(20).any(1)):
        assert of((target, target.astype(np.uint8)), nms=nms) == 100
    crossing = np.maximum(line(40), line(30, 20, 60, (80, 60)).T)
    thick = line(20) + line(21) + line(22)
    both = np.maximum(crossing, thick)
    assert of((both, both), nms=False) == 100
    assert 97 < of((crossing, crossing)) <= 100  # where lines cross, a pixel may go


@pytest.mark.parametrize(("shift", "expected"), [(0, 100), (1, 100), (3, 100), (4, 0)])
@pytest.mark.parametrize("turned", [False, True])
def test_lines_match_within_the_tolerance(shift, expected, turned):
    prediction, target = line(40 + shift), line(40)
    if turned:
        prediction, target = prediction.T, target.T
    assert of((prediction, target), tolerance=0.0301) == expected


def test_a_true_pixel_matches_one_predicted_pixel():
    prediction = line(38) + line(42)
    metric = ods_f.Metric(tolerance=0.03)
    metric.update(prediction, line(40))
    assert metric.compute() == pytest.approx(100 * 2 * 0.5 / 1.5)
    precision, recall, f = metric.curve()
    assert set(precision) == {0.5}
    assert set(recall) == {1.0}
    assert len(f) == len(ods_f.THRESHOLDS) == 101


def test_half_of_a_line_is_found():
    metric = ods_f.Metric()
    metric.update(line(40, 10, 30), line(40, 10, 50))
    assert metric.compute() == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert metric.matched.max() == 20
    assert metric.true == 40


def test_the_best_threshold_is_that_of_the_data_set():
    # Alone each image has a threshold that is right; no threshold is right for both.
    strong = 0.9 * line(20) + 0.6 * line(60), line(20)
    weak = 0.5 * line(20) + 0.3 * line(60), line(20)
    assert of(strong) == of(weak) == 100
    assert of(strong, weak) == pytest.approx(100 * 2 * (2 / 3) / (2 / 3 + 1))


def test_a_wide_ridge_becomes_a_line():
    ridge = (np.exp(-((np.arange(80) - 40) ** 2) / 8) * np.ones((60, 1))).astype(np.float32)
    target = line(40, 0, 60)
    metric = ods_f.Metric()  # a tolerance of 1.1 pixels
    metric.update(ridge, target)
    # The frame takes the outermost pixel at both ends, and more at higher thresholds.
    assert metric.compute() == pytest.approx(100 * 2 * (58 / 60) / (1 + 58 / 60))
    assert metric.predicted.max() == 58
    wide = ods_f.Metric(nms=False)
    wide.update(ridge, target)
    assert wide.compute() == pytest.approx(wide.curve()[2].max())
    assert wide.curve()[1][0] < 0.8  # thinning alone shortens the whole bar from its ends


def test_a_pixel_counts_from_the_threshold_on():
    # 51 / 255 is 0.2 and 204 / 255 is 0.8.
    for score, threshold in ((51, 0.2), (204, 0.8)):
        pair = line(40) * np.float32(score / 255), line(40)
        assert of(pair, thresholds=[threshold]) == 100
        assert of(pair, thresholds=[threshold + 1e-6]) == 0


def test_ignored_pixels_are_in_neither_map():
    target = line(20) + line(60)
    target[:, 55:] = 255
    assert of((line(20) + line(70), target)) == 100
    prediction = line(20) + line(70)
    prediction[:, 55:] = np.nan
    assert of((prediction, target)) == 100
    prediction[:, 55:] = 7  # nothing that is asked for, so not even a probability
    assert of((prediction, target)) == 100


def test_maps_without_boundary():
    none = np.zeros((60, 80), np.float32)
    assert of((none, none)) == 100
    assert of((line(40), none)) == 0
    assert of((none, line(40))) == 0
    assert of((none + np.nan, line(40))) == 0
    assert of((none, none), (line(40), line(40))) == 100
    assert math.isnan(of())
    assert math.isnan(of((none, none + 255)))


def test_probabilities_as_target_are_cut_at_half():
    assert of((line(40), 0.6 * line(40) + 0.4 * line(60))) == 100


# ---- data sets ----


def test_order_and_batches_do_not_matter():
    pairs = [draw(seed) for seed in range(4)]
    expected = of(*pairs, tolerance=0.03)
    assert of(*pairs[::-1], tolerance=0.03) == expected
    batch = tuple(np.stack(maps) for maps in zip(*pairs, strict=True))
    assert of(batch, tolerance=0.03) == expected
    assert expected != of(*pairs[:3], tolerance=0.03)


def test_more_after_a_result():
    pairs = [draw(seed) for seed in range(2)]
    metric = ods_f.Metric(tolerance=0.03)
    for prediction, target in pairs:
        metric.update(prediction, target)
        last = metric.compute()
    assert metric.compute() == last == of(*pairs, tolerance=0.03)


def test_maps_may_be_changed_after_an_update():
    prediction, target = draw(3)
    metric = ods_f.Metric(tolerance=0.03)
    metric.update(prediction, target)
    expected = of((prediction.copy(), target.copy()), tolerance=0.03)
    prediction[:], target[:] = 0, 1
    assert metric.compute() == expected


def test_workers_give_the_same():
    pairs = [draw(seed) for seed in range(11)]
    keywords = {"tolerance": 0.03, "thresholds": FEW}
    ready = []
    metric = ods_f.Metric(workers=2, **keywords)
    for prediction, target in pairs:
        metric.update(prediction, target)
    assert metric._queue.pool is not None
    assert metric.compute(ready.append) == of(*pairs, workers=1, **keywords)
    assert sum(ready) == len(pairs)
    assert metric._queue.pool is None


@pytest.mark.parametrize("pixels", [0, 3000])
def test_only_a_bounded_number_of_images_waits(monkeypatch, pixels):
    monkeypatch.setattr(_counting_queue, "SMALL", pixels)
    pairs = [draw(seed) for seed in range(6)]
    metric = ods_f.Metric(workers=1, tolerance=0.03)
    for prediction, target in pairs:
        metric.update(prediction, target)
        assert metric._queue.waiting_pixels <= pixels
    ready = []
    assert metric.compute(ready.append) == of(*pairs, tolerance=0.03)
    assert sum(ready) == 6


def test_a_worker_that_dies_is_named_and_its_image_is_not_lost(monkeypatch):
    class Dead:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            raise BrokenProcessPool

        def shutdown(self, **_):
            pass

    metric = ods_f.Metric(workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(_counting_queue, "ProcessPoolExecutor", Dead)
        with pytest.raises(BackendError, match="workers=1"):
            metric.update(line(40), line(40))
    metric._queue.workers = 1
    assert metric.compute() == 100
    assert metric.true == 40


# ---- the cache ----


def forbidden(*_):
    raise AssertionError("counted again")


def test_a_second_run_reads_the_cache(tmp_path, monkeypatch):
    pairs = [draw(seed) for seed in range(3)]
    keywords = {"tolerance": 0.03, "cache": tmp_path / "new" / "cache"}
    expected = of(*pairs, **keywords)
    assert expected == of(*pairs, tolerance=0.03)
    monkeypatch.setattr(_counting_queue, "count", forbidden)
    ready = []
    metric = ods_f.Metric(**keywords)
    for prediction, target in pairs:
        metric.update(prediction, target)
    assert metric.compute(ready.append) == expected
    assert sum(ready) == 3
    assert len(list(keywords["cache"].iterdir())) == 3

    changed = pairs[0][0].copy()
    changed[12, 16] = 1 - np.nan_to_num(changed[12, 16])
    label = pairs[0][1].copy()
    label[12, 16] = 1 - (label[12, 16] == 1)
    for pair in ((changed, pairs[0][1]), (pairs[0][0], label)):
        with pytest.raises(AssertionError, match="counted again"):
            of(pair, **keywords)
    for other in ({"tolerance": 0.04}, {"nms": False}, {"thresholds": FEW}):
        with pytest.raises(AssertionError, match="counted again"):
            of(pairs[0], **{**keywords, **other})


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    pairs = [draw(seed) for seed in range(4)]
    of(*pairs[:2], cache=tmp_path)
    counted, count = [], _counting_queue.count
    monkeypatch.setattr(_counting_queue, "count", lambda *a: counted.append(1) or count(*a))
    assert of(*pairs, cache=tmp_path) == of(*pairs)
    assert len(counted) == 2 + 4


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"predicted": [1]}'])
def test_a_damaged_file_is_counted_again(tmp_path, content):
    pair = draw(0)
    expected = of(pair, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = json.loads(file.read_text())
    file.write_text(content)
    assert of(pair, cache=tmp_path) == expected
    assert json.loads(file.read_text()) == whole


def test_workers_fill_the_cache(tmp_path, monkeypatch):
    pairs = [draw(seed) for seed in range(3)]
    expected = of(*pairs, workers=2, cache=tmp_path)
    monkeypatch.setattr(_counting_queue, "count", forbidden)
    assert of(*pairs, workers=2, cache=tmp_path) == expected


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the cache"):
        ods_f.Metric(cache=tmp_path / "file")


# ---- what is refused ----


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, 4.0, math.nan])
def test_a_tolerance_that_is_no_share(tolerance):
    with pytest.raises(ConfigError, match=r"0\.011 for nyud, 0\.0075 for pascal_context"):
        ods_f.Metric(tolerance=tolerance)


@pytest.mark.parametrize("thresholds", [[], [0.5, 0], [1.1], [math.nan], np.arange(2)])
def test_thresholds_that_are_none(thresholds):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        ods_f.Metric(thresholds=thresholds)


def test_no_workers():
    with pytest.raises(ConfigError, match="got 0 workers"):
        ods_f.Metric(workers=0)


@pytest.mark.parametrize("value", [-0.5, 1.5, 255, math.inf])
def test_what_is_no_probability(value):
    with pytest.raises(InputError, match="expected probabilities 0 to 1"):
        of((line(40) * value, line(40)) if value < 256 else (line(40) + value, line(40)))


def test_a_rounding_error_is_a_probability():
    assert of((line(40) * np.float32(1.0001) - np.float32(1e-6), line(40))) == 100


def test_shapes_that_are_no_maps():
    with pytest.raises(ShapeError, match=r"\(N, H, W\)"):
        of((np.zeros(4), np.zeros(4)))


def test_numpy_is_enough():
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['skimage'] = sys.modules['torch'] = None\n"
        "import numpy as np; from degmix_edge import metrics\n"
        "m = metrics.find('ods_f')(); a = np.eye(60, dtype='f4'); m.update(a, a); m.compute()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
