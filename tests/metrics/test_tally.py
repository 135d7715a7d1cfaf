"""Metrics in parts: merged, sliced and drawn from, against one metric that sees everything."""

import math
import pickle

import numpy as np
import pytest
from test_metrics import NAMES, draw

from degmix_edge import metrics
from degmix_edge.errors import ConfigError, ShapeError
from degmix_edge.metrics import Metric, Tally, interval

IMAGES = 14


def pairs(name):
    return [draw(name, seed, (1, 6, 7)) for seed in range(IMAGES)]


def empty(name, channels=5):
    more = {"workers": 1} if name == "ods_f" else {}
    return metrics.find(name)(channels, **more)


def serial(name, some):
    metric = empty(name)
    for prediction, target in some:
        metric.update(prediction, target)
    return metric


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("name", NAMES)
def test_merged_shards_are_one_metric(name, shards):
    whole = serial(name, pairs(name))
    merged = empty(name)
    for number in range(shards):
        part = serial(name, pairs(name)[number::shards])
        merged.merge(pickle.loads(pickle.dumps(part.state())))
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)
    for key, value in whole.state().items():
        assert value.dtype.kind in "iuf"
        if value.dtype.kind != "f":
            assert np.array_equal(merged.state()[key], value), key
    assert type(merged.compute()) is float


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("name", NAMES)
def test_a_tally_in_order_is_equal_to_the_last_bit(name, shards):
    whole = serial(name, pairs(name)).compute()
    bounds = np.linspace(0, IMAGES, shards + 1).astype(int)
    merged = Tally(empty(name))
    for low, high in zip(bounds, bounds[1:], strict=False):
        part = Tally(empty(name))
        for prediction, target in pairs(name)[low:high]:
            part.add(prediction, target)
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert merged.value() == whole
    rows = [1, 5, 6]
    assert merged.value(rows) == serial(name, [pairs(name)[row] for row in rows]).compute()


def test_an_image_without_a_label_counts_nothing():
    tally = Tally(empty("rmse"))
    assert math.isnan(tally.value())
    for index, (prediction, target) in enumerate(pairs("rmse")):
        tally.add(prediction, None if index % 2 else target)
    assert tally.value() == serial("rmse", pairs("rmse")[::2]).compute()
    assert math.isnan(tally.value([1, 3]))


@pytest.mark.parametrize("name", ["miou", "rmse", "max_f"])
def test_draws_are_metrics_of_images_drawn_with_replacement(name):
    tally = Tally(empty(name))
    for pair in pairs(name):
        tally.add(*pair)
    values = tally.draws(120, seed=3)
    weights = np.concatenate(
        [
            rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=size)
            for rng in [np.random.default_rng(3)]
            for size in (50, 50, 20)
        ]
    )
    for number in (0, 49, 50, 119):
        times = weights[number]
        drawn = [pairs(name)[row] for row in range(IMAGES) for _ in range(times[row])]
        assert values[number] == pytest.approx(serial(name, drawn).compute(), rel=1e-12)
    assert np.array_equal(values, tally.draws(120, seed=3))
    low, high = interval(values)
    assert low < tally.value() < high
    assert 0.9 <= ((values >= low) & (values <= high)).mean() <= 1


def test_the_interval_covers_the_truth():
    """Of 200 samples of a known mean, about 95 % have it in their interval."""
    rng, hits = np.random.default_rng(0), 0
    for seed in range(200):
        tally = Tally(empty("mean_error"))
        for error in rng.exponential(1, 40):
            tally.add(np.full((1, 1), error), np.zeros((1, 1)))
        low, high = interval(tally.draws(200, seed))
        hits += low <= 1 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_nothing_has_no_interval():
    tally = Tally(empty("rmse"))
    assert np.isnan(tally.draws(3)).all()
    assert all(map(math.isnan, interval(tally.draws(3))))
    with pytest.raises(ConfigError, match="got 0 draws"):
        tally.draws(0)


class Bare(Metric):
    name, title, unit, higher_is_better = "bare", "Bare", "", True

    def _add(self, prediction, target): ...

    def compute(self):
        return 0.0


def test_what_cannot_be_merged_says_why():
    with pytest.raises(ConfigError, match="'bare': names no `counts`"):
        Tally(Bare())
    with pytest.raises(ShapeError, match=r"confusion \(3, 3\), expected confusion \(5, 5\)"):
        empty("miou").merge(empty("miou", 3).state())
    with pytest.raises(ShapeError, match="square_sum"):
        empty("miou").merge(empty("rmse").state())
