import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ods_f import slow_ods_f

from degmix_edge import metrics, tasks
from degmix_edge.errors import ConfigError, InputError, ShapeError
from degmix_edge.metrics import relative_drop
from degmix_edge.metrics.edge_f import dilate

SEEDS = st.integers(0, 10_000)
NAMES = metrics.names()


def draw(name, seed, shape=(2, 6, 7)):
    """A random prediction and target of the kind that `name` scores, invalid pixels among them."""
    rng = np.random.default_rng(seed)
    if name == "miou":
        # Five classes of which the last rarely occurs, so that absent ones do occur.
        target = rng.choice([0, 1, 2, 3, 4, 255], shape, p=[0.3, 0.3, 0.2, 0.09, 0.01, 0.1])
        return rng.integers(0, 4, shape).astype(np.uint8), target.astype(np.uint8)
    if name == "rmse":
        target = rng.uniform(0.5, 8, shape).astype(np.float32)
        invalid = rng.random(shape) < 0.3
        target[invalid] = rng.choice([0, 255, np.nan, np.inf, -1], invalid.sum())
        return rng.uniform(0, 8, shape).astype(np.float32), target
    if name == "mean_angle":
        vectors = rng.normal(size=(2, *shape, 3))
        prediction, target = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(
            "f4"
        )
        target[rng.random(shape) < 0.3] = 0
        return prediction, target
    if name in ("epe", "mean_error"):
        prediction, target = rng.normal(size=(2, *shape, 2)).astype(np.float32)
        target[rng.random(target.shape) < 0.3] = rng.choice([np.nan, np.inf])
        return prediction, target
    target = rng.choice([0, 1, 255], shape, p=[0.7, 0.2, 0.1]).astype(np.uint8)
    return rng.random(shape).astype(np.float32), target


def of(name, *pairs, **keywords):
    metric = metrics.find(name)(5, **keywords)
    for prediction, target in pairs:
        metric.update(np.asarray(prediction), np.asarray(target))
    return metric.compute()


# ---- slow, obvious references: one Python loop over pixels, straight from the definition ----


def slow_miou(prediction, target, absent="skip"):
    scores = []
    for c in range(5):
        pixels = [(p, t) for p, t in zip(prediction.flat, target.flat, strict=True) if t != 255]
        both = sum(p == c and t == c for p, t in pixels)
        either = sum(p == c or t == c for p, t in pixels)
        if either:
            scores.append(both / either)
        elif absent == "zero":
            scores.append(0)
    return 100 * sum(scores) / len(scores) if scores else math.nan


def slow_rmse(prediction, target):
    squares = [
        (float(p) - float(t)) ** 2
        for p, t in zip(prediction.flat, target.flat, strict=True)
        if math.isfinite(t) and t > 0 and t != 255
    ]
    return math.sqrt(sum(squares) / len(squares))


def slow_epe(prediction, target):
    lengths = [
        math.hypot(*(float(x) - float(y) for x, y in zip(a, b, strict=True)))
        for a, b in zip(prediction.reshape(-1, 2), target.reshape(-1, 2), strict=True)
        if all(map(math.isfinite, b))
    ]
    return sum(lengths) / len(lengths)


def slow_mean_error(prediction, target):
    pairs = zip(prediction.flat, target.flat, strict=True)
    errors = [abs(float(p) - float(t)) for p, t in pairs if math.isfinite(t)]
    return sum(errors) / len(errors)


def slow_mean_angle(prediction, target):
    angles = []
    for a, b in zip(prediction.reshape(-1, 3), target.reshape(-1, 3), strict=True):
        a, b = [float(x) for x in a], [float(x) for x in b]
        if any(b):
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
            angles.append(math.degrees(math.acos(max(-1, min(1, cosine)))))
    return sum(angles) / len(angles)


def slow_max_f(prediction, target):
    best = 0.0
    pixels = [(p, t) for p, t in zip(prediction.flat, target.flat, strict=True) if t != 255]
    for step in range(1, 20):
        threshold = np.float32(step / 20)
        hit = sum(p >= threshold and t == 1 for p, t in pixels)
        if hit:
            precision = hit / sum(p >= threshold for p, _ in pixels)
            recall = hit / sum(t == 1 for _, t in pixels)
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    return 100 * best


def slow_edge_f(prediction, target):
    tolerance = max(1, 0.0075 * math.hypot(*target.shape[-2:]))
    predicted_hits, predicted_count, true_hits, true_count = 0, 0, 0, 0
    for scores, labels in zip(prediction, target, strict=True):
        predicted = [tuple(i) for i in np.argwhere((scores >= 0.5) & (labels != 255))]
        true = [tuple(i) for i in np.argwhere(labels == 1)]
        predicted_hits += sum(any(math.dist(p, t) <= tolerance for t in true) for p in predicted)
        true_hits += sum(any(math.dist(p, t) <= tolerance for p in predicted) for t in true)
        predicted_count, true_count = predicted_count + len(predicted), true_count + len(true)
    precision, recall = predicted_hits / predicted_count, true_hits / true_count
    return 100 * 2 * precision * recall / (precision + recall)


def slow_ece(prediction, target):
    """Guo et al. 2017, eq. 3, for the probability of the positive class."""
    bins = [[] for _ in range(15)]
    for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist(), strict=True):
        if t != 255:
            confidence, chosen = (p, 1) if p >= 0.5 else (1 - p, 0)
            number = next(m for m in range(1, 16) if m / 15 >= confidence or m == 15)
            bins[number - 1].append((confidence, chosen == t))
    total, error = sum(map(len, bins)), 0.0
    for pixels in filter(None, bins):
        accuracy = sum(right for _, right in pixels) / len(pixels)
        confidence = sum(c for c, _ in pixels) / len(pixels)
        error += len(pixels) / total * abs(accuracy - confidence)
    return 100 * error


SLOW = {
    "ece": slow_ece,
    "miou": slow_miou,
    "rmse": slow_rmse,
    "mean_angle": slow_mean_angle,
    "epe": slow_epe,
    "mean_error": slow_mean_error,
    "max_f": slow_max_f,
    "edge_f": slow_edge_f,
    "ods_f": slow_ods_f,
}


# ---- every metric ----


def test_the_file_name_is_the_registry():
    assert set(SLOW) == set(NAMES)
    for name in NAMES:
        metric = metrics.find(name)
        assert issubclass(metric, metrics.Metric)
        assert metric.name == name
        assert metric.title
        assert metric.unit or name == "mean_error"  # in the unit of the task
    with pytest.raises(ConfigError, match="Did you mean 'miou'"):
        metrics.find("mious")


def test_every_task_has_its_metric():
    for task in tasks.names():
        assert tasks.find(task).metric in NAMES


@pytest.mark.parametrize("name", NAMES)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_equals_the_slow_reference(name, seed):
    pair = draw(name, seed)
    assert of(name, pair) == pytest.approx(SLOW[name](*pair), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_updates_pool(name, seed):
    prediction, target = draw(name, seed, (4, 6, 7))
    whole = of(name, (prediction, target))
    assert whole == pytest.approx(of(name, *zip(prediction, target, strict=True)))
    assert whole == pytest.approx(of(name, *[(prediction[s], target[s]) for s in ([3, 1], [0, 2])]))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_valid_is_nan(name):
    assert math.isnan(of(name))
    prediction, target = draw(name, 0)
    invalid = {"rmse": 0, "mean_angle": 0, "epe": np.nan, "mean_error": np.nan}
    target = np.full_like(target, invalid.get(name, 255))
    assert math.isnan(of(name, (prediction, target)))
    assert math.isnan(of(name, (prediction[:0], target[:0])))


# odsF thins its prediction and fades its frame: random dots do not come through. Its own tests have
# lines.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ods_f"])
def test_a_perfect_prediction(name):
    _, target = draw(name, 3)
    prediction = np.where(target == 255, 0, target)
    best = 100 if metrics.find(name).higher_is_better else 0
    assert of(name, (prediction, target)) == pytest.approx(best)


@pytest.mark.parametrize("name", NAMES)
def test_ignored_pixels_do_not_count(name):
    prediction, target = draw(name, 5)
    changed = prediction.copy()
    if name == "mean_angle":
        ignored = ~target.any(axis=-1)
    elif name == "rmse":
        ignored = ~np.isfinite(target) | (target <= 0) | (target == 255)
    elif name in ("epe", "mean_error"):
        ignored = ~np.isfinite(target)
    else:
        ignored = target == 255
    assert ignored.any()
    before = of(name, (prediction, target))
    changed[ignored] = 1 - changed[ignored]
    assert of(name, (changed, target)) == before


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_differ_are_named(name):
    prediction, target = draw(name, 0)
    with pytest.raises(ShapeError) as caught:
        of(name, (prediction[:1], target))
    assert str(prediction[:1].shape) in str(caught.value)
    assert str(target.shape) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_stay_as_they_are(name):
    pair = draw(name, 1)
    copies = [a.copy() for a in pair]
    for array in pair:
        array.flags.writeable = False
    of(name, pair)
    for array, copy in zip(pair, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# ---- values known by hand ----


def test_miou_by_hand():
    prediction, target = [[0, 0, 1, 1]], [[0, 1, 1, 255]]
    # class 0: 1 of 2; class 1: 1 of 2 (the ignored pixel is no false positive)
    assert of("miou", (prediction, target)) == pytest.approx(50)
    assert of("miou", (prediction, target), absent="zero") == pytest.approx(50 * 2 / 5)


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_miou_with_absent_classes_as_zero(seed):
    pair = draw("miou", seed)
    assert of("miou", pair, absent="zero") == pytest.approx(slow_miou(*pair, "zero"))


@pytest.mark.parametrize("which", ["prediction", "target"])
@pytest.mark.parametrize("label", [5, -1])
def test_miou_refuses_labels_that_are_no_class(which, label):
    pair = {"prediction": np.zeros((2, 2), int), "target": np.zeros((2, 2), int)}
    pair[which][0, 0] = label
    with pytest.raises(InputError, match=rf"{which} has label {label}, expected integers 0\.\.4"):
        of("miou", tuple(pair.values()))


def test_miou_refuses_floats_and_unknown_conventions():
    with pytest.raises(InputError, match="prediction has float32 values"):
        of("miou", (np.zeros((2, 2), "f4"), np.zeros((2, 2), int)))
    with pytest.raises(ConfigError, match="expected one of skip, zero"):
        of("miou", absent="one")


def test_rmse_by_hand():
    assert of("rmse", ([[1.0, 2.0, 9.0]], [[4.0, 6.0, 0.0]])) == pytest.approx(math.sqrt(12.5))
    # Pooled: sqrt((9 + 8 * 0) / 9). The mean of the two images' own would be 1.5.
    pairs = ([[4.0]], [[1.0]]), ([[1.0] * 8], [[1.0] * 8])
    assert of("rmse", *pairs) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["rmse", "mean_angle"])
def test_nan_predictions_show(name):
    prediction, target = draw(name, 0)
    prediction[:] = np.nan
    assert math.isnan(of(name, (prediction, target)))


def test_ece_by_hand():
    # Two pixels of 80 %, one of them right, and two of 95 %, both right: (0.3 + 0.05) / 2.
    classes, confidence = [[3, 1, 0, 0]], [[0.8, 0.8, 0.95, 0.95]]
    prediction, target = np.stack([classes, confidence], axis=-1), np.array([[3, 2, 0, 0]])
    assert of("ece", (prediction, target)) == pytest.approx(17.5)
    # An ignored pixel does not count, and a network that is always right and sure has no error.
    assert of("ece", (prediction[:, :1], target[:, :1])) == pytest.approx(20)
    target[0, 1] = 255
    assert of("ece", (prediction, target)) == pytest.approx(10)
    sure = np.stack([target, np.ones((1, 4))], axis=-1)
    assert of("ece", (sure, target)) == 0
    # A bin is closed above: 0.8 is the upper edge of the twelfth, and lies in it with 0.75.
    edge = np.array([[[0, 0.8], [0, 0.75]]])
    assert of("ece", (edge, np.array([[0, 1]]))) == pytest.approx(27.5)
    prediction[0, 0, 1] = np.nan
    assert math.isnan(of("ece", (prediction, target)))
    with pytest.raises(ShapeError, match="a last axis of 2"):
        of("ece", (np.zeros((4, 5, 3)), np.zeros((4, 5), int)))


@pytest.mark.parametrize("angle_deg", [0, 1e-4, 30, 90, 179.9999, 180])
def test_mean_angle_by_hand(angle_deg):
    turned = [math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg)), 0]
    assert of("mean_angle", ([[turned]], [[[1.0, 0, 0]]])) == pytest.approx(angle_deg, abs=1e-7)


def test_mean_angle_takes_vectors_of_any_length():
    assert of("mean_angle", ([[[0.0, 0.5, 0]]], [[[2.0, 2.0, 0]]])) == pytest.approx(45)
    # A zero prediction points nowhere: neither right nor opposite.
    assert of("mean_angle", ([[[0.0, 0, 0]]], [[[0.0, 0, 1]]])) == pytest.approx(90)
    with pytest.raises(ShapeError, match=r"\(\.\.\., H, W, C\)"):
        of("mean_angle", (np.zeros((4, 5)), np.zeros((4, 5))))
    four = np.eye(4)[None]
    assert of("mean_angle", (four, four[:, ::-1])) == pytest.approx(90)


def test_max_f_by_hand():
    # Best from 0.35 to 0.6: two of three predicted are right, both are found.
    prediction, target = np.float32([[0.9, 0.6, 0.6, 0.3]]), [[1, 1, 0, 0]]
    expected = 100 * 1.3 * (2 / 3) / (0.3 * 2 / 3 + 1)
    at_most = 100 * 1.3 * 0.5 / (0.3 + 0.5)  # from 0.65: one predicted, right, half found
    assert of("max_f", (prediction, target)) == pytest.approx(max(expected, at_most))


@pytest.mark.parametrize("step", range(1, 20))
def test_max_f_predicts_from_the_threshold_on(step):
    probability = np.float32(step / 20)
    assert of("max_f", (np.array([[probability, 0]]), [[1, 0]])) == 100
    metric = metrics.find("max_f")()
    metric.update(np.array([[probability]]), np.array([[1]]))
    assert metric.hit.sum() == step


@pytest.mark.parametrize("name", ["max_f", "edge_f", "ods_f"])
def test_probabilities_as_target_are_cut_at_half(name):
    prediction, _ = draw(name, 1)
    target, _ = draw(name, 2)
    cut = (target >= 0.5).astype(np.uint8)
    assert of(name, (prediction, target)) == of(name, (prediction, cut))
    target[0, 0, 0] = np.nan
    cut[0, 0, 0] = 255
    assert of(name, (prediction, target)) == of(name, (prediction, cut))


@pytest.mark.parametrize("name", ["max_f", "edge_f", "ods_f"])
def test_maps_without_any_positive_pixel(name):
    none, some = np.zeros((4, 4), "f4"), np.eye(4, dtype="f4")
    assert of(name, (none, none)) == 100
    assert of(name, (some, none)) == 0
    assert of(name, (none, some)) == 0
    assert of(name, (np.full_like(none, np.nan), some)) == 0


def line(size, column):
    mask = np.zeros((size, size), np.float32)
    mask[:, column] = 1
    return mask


@pytest.mark.parametrize(("shift", "expected"), [(0, 100), (1, 100), (2, 0)])
def test_edge_f_forgives_one_pixel_in_a_small_image(shift, expected):
    assert of("edge_f", (line(20, 8 + shift), line(20, 8))) == expected


@pytest.mark.parametrize(("shift", "expected"), [(3, 100), (4, 0)])
def test_edge_f_tolerance_grows_with_the_diagonal(shift, expected):
    # 0.0075 * 300 * sqrt(2) = 3.18 pixels
    assert of("edge_f", (line(300, 100 + shift), line(300, 100))) == expected


def test_edge_f_by_hand():
    target = line(20, 8)
    prediction = line(20, 8) + line(20, 15)  # half of what is predicted is wrong, all is found
    assert of("edge_f", (prediction, target)) == pytest.approx(100 * 2 * 0.5 / 1.5)


@given(
    seed=SEEDS, radius=st.floats(1, 6), shape=st.sampled_from([(1, 9), (9, 1), (5, 7), (2, 4, 3)])
)
@settings(max_examples=40, deadline=None)
def test_dilation_is_a_disc(seed, radius, shape):
    mask = np.random.default_rng(seed).random(shape) < 0.1
    expected = np.zeros_like(mask)
    for index in np.ndindex(shape):
        expected[index] = any(
            other[:-2] == index[:-2] and math.dist(other[-2:], index[-2:]) <= radius
            for other in map(tuple, np.argwhere(mask).tolist())
        )
    np.testing.assert_array_equal(dilate(mask, radius), expected)


# ---- relative_drop ----


@pytest.mark.parametrize(
    ("name", "reference", "value", "expected"),
    [
        ("miou", 50, 45, 0.1),
        ("miou", 50, 55, -0.1),
        ("rmse", 0.5, 0.6, 0.2),
        ("rmse", 0.5, 0.4, -0.2),
        ("rmse", 0.5, 0.5, 0),
        ("miou", 0, 0, 0),
        ("miou", 0, 1, -math.inf),
        ("rmse", 0, 0, 0),
        ("rmse", 0, 1, math.inf),
        ("rmse", 1, math.inf, math.inf),
        ("rmse", 1, math.nan, math.inf),
        ("miou", 1, math.nan, math.inf),
        ("miou", 0, math.nan, math.inf),
        ("miou", math.nan, 1, math.nan),
        ("miou", math.nan, math.nan, math.nan),
        ("rmse", math.inf, 1, math.nan),
    ],
)
def test_relative_drop(name, reference, value, expected):
    drop = relative_drop(metrics.find(name), reference, value)
    assert drop == pytest.approx(expected, nan_ok=True)
