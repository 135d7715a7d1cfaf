"""Observers and collection."""

import numpy as np
import onnx
import pytest
from degmix_calibration import observers
from degmix_calibration.collect import collect, graph_hash
from degmix_calibration.histogram import BINS, Histogram

from degmix_edge import build as building
from degmix_edge.errors import BuildError, ConfigError, InputError
from degmix_edge.quant.qparams import LEVELS

RNG = np.random.default_rng(0)


def filled(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.update(array.astype(np.float32))
    return histogram


def test_a_growing_histogram_loses_no_count_and_keeps_its_bins():
    small, large = RNG.uniform(-1, 1, 1000), RNG.uniform(-50, 50, 1000)
    grown = filled(small, large)
    assert grown.counts.sum() == 2000
    assert len(grown.counts) == BINS
    below = grown.edges[1:] <= 1.0
    inside = sum((np.abs(a) <= grown.edges[1:][below][-1]).sum() for a in (small, large))
    assert abs(grown.counts[below].sum() - inside) <= 2
    assert grown.largest == pytest.approx(np.abs(large).max())


def test_an_all_zero_tensor():
    histogram = filled(np.zeros(10))
    for name in observers.names():
        assert observers.find(name)(histogram) == 0


def test_min_max_is_the_largest_magnitude():
    assert observers.find("min_max")(filled(np.array([-3.0, 2.0]))) == 3


def test_percentile_drops_one_in_ten_thousand():
    values = np.concatenate((RNG.uniform(0, 1, 99_995), [1000.0] * 5))
    assert observers.find("percentile")(filled(values)) == pytest.approx(1, abs=1000 / BINS)


def test_mse_is_the_best_of_a_brute_force_search():
    values = np.concatenate((RNG.normal(size=50_000), [12.0, -11.0]))

    def loss(amax: float) -> float:
        scale = amax / LEVELS
        return float(
            np.mean((values - np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale) ** 2)
        )

    best = min(loss(a) for a in np.linspace(0.5, 12, 400))
    chosen = observers.find("mse")(filled(values))
    assert chosen < 12  # it clips the largest
    assert loss(chosen) <= 1.05 * best


def test_an_unknown_observer():
    with pytest.raises(ConfigError, match="Did you mean 'min_max'"):
        observers.find("minmax")


@pytest.fixture(scope="module")
def graph(exported):
    return building.deploy(*exported, building.Options())[0]


TENSOR = "backbone.network.conv_stem/Conv"


def test_two_runs_are_one_run_over_both(graph, pictures):
    named = [(str(i), p) for i, p in enumerate(pictures[:4])]
    whole = collect(graph, [TENSOR], named, "min_max").tensors[TENSOR]
    first, second = (
        collect(graph, [TENSOR], part, "min_max").tensors[TENSOR] for part in (named[:2], named[2:])
    )
    assert whole.low == min(first.low, second.low)
    assert whole.high == max(first.high, second.high)


def test_ranges_know_graph_and_images(graph, pictures):
    found = collect(graph, [TENSOR], [("a", pictures[0])], "min_max")
    assert found.graph_sha256 == graph_hash(graph)
    assert found.images[0].name == "a"
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    weight = next(t for t in changed.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    assert graph_hash(changed) != found.graph_sha256


def test_no_images(graph):
    with pytest.raises(InputError, match="no images; give a folder"):
        collect(graph, [TENSOR], [], "min_max")


def test_a_tensor_that_is_not_finite_is_named(graph, pictures):
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    weight = next(t for t in broken.graph.initializer if t.name.endswith("conv_stem.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(BuildError, match=f"'kitchen'.*{TENSOR}.*not finite"):
        collect(broken, [TENSOR], [("kitchen", pictures[0])], "min_max")
