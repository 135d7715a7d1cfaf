"""Observers and collection."""

import numpy as np
import onnx
import pytest
from conftest import lively_network
from degmix_calibration import observers
from degmix_calibration.collect import collect, graph_hash
from degmix_calibration.histogram import BINS, Histogram
from degmix_calibration.memory import LEAST, values_bytes

from degmix_edge.errors import BuildError, ConfigError, InputError
from degmix_edge.network import IMAGE
from degmix_edge.passes.forms import deploy_model
from degmix_edge.quant.qparams import LEVELS

pytestmark = pytest.mark.slow(file_seconds=12)

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
    return deploy_model(*exported)[0]


TENSOR = "backbone.network.conv_stem/Conv"


def test_two_runs_are_one_run_over_both(graph, pictures):
    named = [(str(i), {IMAGE: p[None]}) for i, p in enumerate(pictures[:4])]
    whole = collect(graph, [TENSOR], named, "min_max").tensors[TENSOR]
    first, second = (
        collect(graph, [TENSOR], part, "min_max").tensors[TENSOR] for part in (named[:2], named[2:])
    )
    assert whole.low == min(first.low, second.low)
    assert whole.high == max(first.high, second.high)


def test_ranges_know_graph_and_images(graph, pictures):
    found = collect(graph, [TENSOR], [("a", {IMAGE: pictures[0][None]})], "min_max")
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
    with pytest.raises(BuildError, match=f"'kitchen'.*first node.*'{TENSOR}'"):
        collect(broken, [TENSOR], [("kitchen", {IMAGE: pictures[0][None]})], "min_max")


def test_entropy_clips_outliers_and_keeps_what_is_uniform():
    choose = observers.find("entropy")
    tail = filled(np.concatenate((RNG.normal(size=200_000), [40.0, -38.0])))
    assert 2.0 < choose(tail) < 10.0
    assert choose(filled(RNG.uniform(-3, 3, 200_000))) == pytest.approx(3, rel=0.02)


def test_entropy_is_the_least_of_a_slow_search():
    from degmix_calibration.observers import entropy

    histogram = filled(RNG.standard_t(4, size=100_000))
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts)[-1]) + 1

    def slow(size: int) -> float:
        p = counts[:size].copy()
        p[-1] += counts[size:].sum()
        q = np.zeros(size)
        edges = [int(level * size / entropy.LEVELS) for level in range(entropy.LEVELS)] + [size]
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            held = [i for i in range(start, stop) if counts[i] > 0]
            for i in held:
                q[i] = counts[start:stop].sum() / len(held)
        p, q = p / p.sum(), q / q.sum()
        return sum(a * np.log(a / (b or 1e-9)) for a, b in zip(p, q, strict=True) if a > 0)

    sizes = range(entropy.LEVELS, last + 1, entropy.STEP)
    best = min(sizes, key=slow)
    assert observers.find("entropy")(histogram) == pytest.approx(histogram.edges[best])


def named(pictures):
    return [(f"picture {i}", {IMAGE: picture[None]}) for i, picture in enumerate(pictures)]


@pytest.fixture(scope="module")
def observed():
    """A deployed graph of few layers, and its tensors that need ranges."""
    from degmix_training.export import network_spec

    from degmix_edge.graph.model import to_graph
    from degmix_edge.quant.rules import choose
    from degmix_edge.quant.sites import observed_tensors

    loaded, exported = lively_network("baseline", backbone="test_resnet")
    model, spec, _ = deploy_model(exported, network_spec(loaded))
    surgeon = to_graph(model)
    return model, observed_tensors(surgeon, choose(surgeon, spec, "int8"))


def test_chunks_give_the_same_ranges(observed, pictures):
    model, tensors = observed
    whole = collect(model, tensors, named(pictures), "mse")
    done = []
    small = collect(
        model, tensors, named(pictures), "mse", memory_bytes=100_000, advance=done.append
    )
    assert small.tensors == whole.tensors  # to the last bit: the graph runs as it is written
    assert sum(done) == pytest.approx(len(pictures))
    assert [s.images for s in whole.convergence] == [1, 2, 4, 8]
    assert whole.convergence[-1].median == 1


class StopNowError(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted(observed, pictures):
    """Ranges in three chunks, how many calls that took, and the memory of a chunk."""
    from degmix_calibration import collect as module

    model, tensors = observed
    memory_bytes = sum(module._bytes(model, tensors).values()) // 3
    runs, real = [], module._run

    def counted(session, names, image):
        runs.append(1)
        return real(session, names, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_run", counted)
        ranges = collect(model, tensors, named(pictures), "mse", memory_bytes=memory_bytes)
    return ranges, len(runs), memory_bytes


@pytest.mark.parametrize("after", [3, 11, 20])
def test_an_interrupted_calibration_goes_on(
    observed, uninterrupted, pictures, tmp_path, monkeypatch, after
):
    from degmix_calibration import collect as module
    from degmix_calibration import collect_state as states

    model, tensors = observed
    fresh, calls, memory_bytes = uninterrupted
    path, runs = tmp_path / "x.partial", []
    monkeypatch.setattr(states, "SECONDS", 0.0)
    real = module._run

    def counted(session, names, image):
        runs.append(1)
        if len(runs) == after:
            raise StopNowError
        return real(session, names, image)

    monkeypatch.setattr(module, "_run", counted)
    options = {"memory_bytes": memory_bytes, "state": path}
    with pytest.raises(StopNowError):
        collect(model, tensors, named(pictures), "mse", **options)
    assert path.exists()
    before = len(runs)
    after = -1
    resumed = collect(model, tensors, named(pictures), "mse", **options)
    assert not path.exists()
    assert len(runs) - before <= calls - before + 1
    assert resumed == fresh


def test_it_goes_on_in_another_amount_of_memory(
    observed, uninterrupted, pictures, tmp_path, monkeypatch
):
    """A chunk that was begun is not a part of a larger one, whose tensors would count twice."""
    from degmix_calibration import collect as module
    from degmix_calibration import collect_state as states

    model, tensors = observed
    fresh, _, memory_bytes = uninterrupted
    path, runs, real = tmp_path / "x.partial", [], module._run
    monkeypatch.setattr(states, "SECONDS", 0.0)

    def stopped(session, names, image):
        runs.append(1)
        if len(runs) == 3:
            raise StopNowError
        return real(session, names, image)

    monkeypatch.setattr(module, "_run", stopped)
    with pytest.raises(StopNowError):
        collect(model, tensors, named(pictures), "mse", state=path, memory_bytes=memory_bytes)
    resumed = collect(model, tensors, named(pictures), "mse", state=path)
    assert resumed == fresh
    assert len(runs) == 3 + 2 * len(pictures) - 2  # the rest of the first chunk, and all others


def test_it_takes_a_quarter_of_the_memory_that_is_free(tmp_path):
    assert values_bytes(tmp_path) == LEAST
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")
    assert values_bytes(tmp_path) == 4 << 30
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(f"{2 << 30}\n")
    assert values_bytes(tmp_path) == 4 << 30
    (group / "memory.max").write_text(f"{10 << 30}\n")
    assert values_bytes(tmp_path) == 2 << 30
    (group / "memory.max").write_text(f"{3 << 30}\n")
    assert values_bytes(tmp_path) == LEAST


def test_a_calibration_without_rest_writes_no_state(
    observed, uninterrupted, pictures, tmp_path, monkeypatch
):
    """The file would be deleted at once: it is written after each chunk but the last."""
    from degmix_calibration import collect_state as states

    model, tensors = observed
    fresh, calls, memory_bytes = uninterrupted
    written, write_file = [], states.write_file
    monkeypatch.setattr(states, "SECONDS", 3600.0)
    monkeypatch.setattr(
        states, "write_file", lambda *a, **k: written.append(a) or write_file(*a, **k)
    )
    path = tmp_path / "x.partial"
    collect(model, tensors, named(pictures), "mse", state=path)
    assert written == []
    options = {"memory_bytes": memory_bytes, "state": path}
    assert collect(model, tensors, named(pictures), "mse", **options) == fresh
    assert len(written) == calls / len(pictures) - 1
    assert not path.exists()


def test_a_state_of_other_images_is_dropped(observed, pictures, tmp_path, monkeypatch):
    from degmix_calibration import collect_state as states

    model, tensors = observed
    monkeypatch.setattr(states, "SECONDS", 0.0)
    path = tmp_path / "x.partial"

    def some():
        yield from named(pictures[:2])
        raise StopNowError

    with pytest.raises(StopNowError):
        collect(model, tensors, some(), "min_max", state=path)
    assert path.exists()
    got = collect(model, tensors, named(pictures[3:6]), "min_max", state=path)
    assert got == collect(model, tensors, named(pictures[3:6]), "min_max")
    path.write_bytes(b"no state at all")
    assert collect(model, tensors, named(pictures[3:6]), "min_max", state=path) == got


def test_out_of_memory_halves_the_chunk_and_then_says_so(observed, pictures, monkeypatch):
    from degmix_calibration import collect as module

    model, tensors = observed
    real, sizes = module._run, []

    def scarce(session, names, image):
        sizes.append(len(names))
        if len(names) > 20:
            raise MemoryError
        return real(session, names, image)

    monkeypatch.setattr(module, "_run", scarce)
    got = collect(model, tensors, named(pictures[:2]), "min_max")
    assert len(got.tensors) == len(tensors)
    assert max(sizes) > 20

    def none(session, names, image):
        raise MemoryError

    monkeypatch.setattr(module, "_run", none)
    with pytest.raises(BuildError, match=r"no memory for tensor '.*' of [\d,]+ bytes"):
        collect(model, tensors, named(pictures[:2]), "min_max")


def test_onnxruntimes_own_words_are_understood():
    from degmix_calibration.collect import _as_memory_error

    text = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation"
    assert isinstance(_as_memory_error(RuntimeError(text)), MemoryError)
    assert not isinstance(_as_memory_error(RuntimeError("no such input")), MemoryError)


def test_an_image_of_another_size_is_refused(observed, pictures):
    from degmix_edge.errors import ShapeError

    model, tensors = observed
    with pytest.raises(
        ShapeError, match=r"'wide': image: got uint8 \(1, 64, 97, 3\), expected \(1, 64"
    ):
        collect(model, tensors, [("wide", {IMAGE: np.zeros((1, 64, 97, 3), np.uint8)})], "min_max")


def test_a_choice_holds_what_is_different_and_no_duplicates():
    from degmix_calibration.image_set import choose

    day = [np.full((40, 60, 3), 180 + i, np.uint8) for i in range(30)]
    night = [np.full((40, 60, 3), 8 + i, np.uint8) for i in range(2)]
    noisy = [RNG.integers(0, 255, (40, 60, 3)).astype(np.uint8)]
    everything = [*day, *night, *noisy, day[0].copy()]
    reads = [lambda image=image: image for image in everything]
    chosen, duplicates = choose(reads, 5)
    assert duplicates == 1
    assert len(chosen) == 5
    assert chosen == choose(reads, 5)[0] == sorted(chosen)
    assert set(chosen) & {30, 31}  # night
    assert 32 in chosen
    assert choose(reads, 100)[0] == list(range(33))


def test_the_plot_of_settling_ranges(observed, pictures):
    import xml.etree.ElementTree as ElementTree

    from degmix_edge.report.convergence import convergence
    from degmix_edge.workflows.calibration import settled_after

    model, tensors = observed
    ranges = collect(model, tensors, named(pictures), "min_max")
    root = ElementTree.fromstring(convergence(ranges))
    text = " ".join(root.itertext())
    assert f"Ranges of {len(tensors)} tensors, relative to those after all 8 images" in text
    assert ranges.convergence[-2].worst in text
    steps = tuple(
        s.model_copy(update={"low": 0.99, "high": 1.01}) if s.images >= 4 else s
        for s in ranges.convergence
    )
    assert settled_after(ranges.model_copy(update={"convergence": steps})) == 4
