"""Comparison: polygraphy's tensors, each task's metric, the worst task decides; bench; doctor."""

import numpy as np
import pytest
import torch
from degmix_calibration.trial import Example
from degmix_training.data import synthetic

from degmix_edge.backends import find
from degmix_edge.backends.torch_eager import Backend
from degmix_edge.bundle.manifest import MODEL
from degmix_edge.errors import InputError
from degmix_edge.network import IMAGE
from degmix_edge.preprocess import Fit
from degmix_edge.runtime import Session, load
from degmix_edge.workflows.bench import bench_sessions, machine
from degmix_edge.workflows.build import build
from degmix_edge.workflows.comparison import (
    LOGITS_TOLERANCE,
    ROUNDING_FACTOR,
    compare_sessions,
    tensor_differences,
)
from degmix_edge.workflows.doctor import examine
from degmix_edge.workflows.sources import as_images, images


@pytest.fixture
def reference(bundles, loaded):
    manifest = bundles["fp32"].manifest
    with Session(
        Backend(manifest.network, loaded.network, raw_logits=True), manifest.fit
    ) as session:
        yield session


@pytest.fixture(scope="module")
def scenes():
    samples = [synthetic.sample(seed, 64, 96) for seed in range(4)]
    return [(sample.image, sample.labels) for sample in samples]


def test_fp32_is_pytorch(bundles, reference, scenes):
    tensors = tensor_differences(
        bundles["fp32"], reference.backend, [{IMAGE: image[None]} for image, _ in scenes]
    )
    assert {t.name for t in tensors} >= {"semseg", "semseg_logits", "depth_logits"}
    for tensor in tensors:
        assert tensor.relative < 1e-4 or tensor.name in ("edge", "normals") or tensor.equal
        assert tensor.equal is None or tensor.equal >= 0.999
    assert reference.backend.active  # the runner leaves what it did not open
    with load(bundles["fp32"]) as session:
        found = compare_sessions(session, reference, scenes, tensors)
    assert found.passed
    assert found.images == 4
    assert all(abs(task.drop) < 1e-3 for task in found.tasks.values())


def test_labels_that_a_cropping_network_does_not_see_do_not_count(bundles, loaded):
    manifest = bundles["fp32"].manifest
    fit, seen = Fit(height=64, width=96, mode="crop"), slice(16, 112)
    wide, middle = [], []
    for seed in range(3):
        sample = synthetic.sample(seed, 64, 128)
        labels = {task: label.copy() for task, label in sample.labels.items()}
        for label in labels.values():  # nonsense, but valid, where the network does not look
            label[:, :16] = label[0, 0]
            label[:, 112:] = label[-1, -1]
        wide.append((sample.image, labels))
        middle.append((sample.image[:, seen], {t: v[:, seen] for t, v in labels.items()}))
    found = []
    for samples in (wide, middle):
        engine = find("onnxruntime")(manifest.network, bundles["int8"].read(MODEL))
        network = Backend(manifest.network, loaded.network)
        with Session(engine, fit) as session, Session(network, fit) as reference:
            found.append(compare_sessions(session, reference, samples))
    for name, task in found[0].tasks.items():
        other = found[1].tasks[name]
        assert (task.agreement, task.reference, task.value) == pytest.approx(
            (other.agreement, other.reference, other.value), rel=1e-7
        )
    for cropped, whole in zip(wide, middle, strict=True):
        example, same = (
            Example.of("", *sample, fit, manifest.network) for sample in (cropped, whole)
        )
        np.testing.assert_array_equal(example.pixels, same.pixels)
        for task, label in example.labels.items():
            np.testing.assert_array_equal(label, same.labels[task])


def test_labelled_images_are_not_padded_for_a_network_that_crops():
    fit = Fit(height=128, width=96)
    (padded,) = images("synthetic:1", fit)
    assert padded.image.shape == (128, 96, 3)
    samples = synthetic.DataSet((64, 80)).open_split("test", ("depth",), 1)
    (padded,) = as_images(samples, fit, ("depth",))
    (whole,) = as_images(samples, fit.model_copy(update={"mode": "crop"}), ("depth",))
    assert [item.image.shape for item in (padded, whole)] == [(128, 96, 3), (64, 80, 3)]
    assert whole.load()[1]["depth"].shape == (64, 80)


def test_the_worst_task_decides(bundles, loaded, scenes):
    """A reference whose depth is another network's."""
    manifest = bundles["fp32"].manifest

    class Halved(torch.nn.Module):
        def forward(self, image):
            logits = loaded.network(image)
            return {**logits, "normals": -logits["normals"]}

    with (
        load(bundles["fp32"]) as session,
        Session(Backend(manifest.network, Halved()), manifest.fit) as other,
    ):
        found = compare_sessions(session, other, [(image, {}) for image, _ in scenes])
    assert not found.passed
    assert found.worst == "normals"
    assert found.verdict.startswith("normals differs from PyTorch by")
    by_task = found.tasks
    assert by_task["semseg"].disagreement < 0.01
    assert by_task["normals"].agreement == pytest.approx(180, abs=0.5)
    assert by_task["normals"].drop is None


def test_fp32_logits_out_of_tolerance_fail_even_where_maps_agree(bundles, reference, scenes):
    from degmix_edge.workflows.comparison import TensorDifference

    loud = (TensorDifference("semseg_logits", relative=2e-3, mean=1e-5, equal=None),)
    with load(bundles["fp32"]) as session:
        found = compare_sessions(session, reference, scenes, loud)
    assert not found.passed
    assert "semseg_logits: relative difference 2.0e-03" in found.verdict


class Steep(torch.nn.Module):
    """A network whose depth is a small difference of two large numbers, so that float32 shows.

    Args:
        shift: Added to the depth: a fault of the engine's.
    """

    def __init__(self, network, shift=0.0):
        super().__init__()
        self.network, self.shift = network, shift

    def forward(self, image):
        logits = self.network(image)
        large = 700 * logits["depth"].sigmoid()
        depth = (large + 400) - large - 400 + logits["depth"] + self.shift
        return {**logits, "depth": depth}


@pytest.fixture(scope="module")
def steep(loaded, tmp_path_factory):
    """FP32 bundles of such a network and of a faulty one, and the network in PyTorch."""
    folder = tmp_path_factory.mktemp("steep")
    made = {}
    for name, shift in (("good", 0.0), ("faulty", 0.01)):
        module = Steep(loaded.network, shift).eval()
        options = {"precision": "fp32", "size": (64, 96), "mean": loaded.card.config.mean}
        options |= {"std": loaded.card.config.std, "color": "rgb"}
        made[name] = build(module, folder / f"{name}.degmix", **options)
    return made, Steep(loaded.network).eval()


def test_fp32_logits_may_differ_by_what_float32_costs_pytorch_itself(steep, scenes):
    made, module = steep
    feeds = [{IMAGE: image[None]} for image, _ in scenes]
    found = {}
    for name, bundle in made.items():
        with Backend(bundle.manifest.network, module, raw_logits=True) as reference:
            tensors = tensor_differences(bundle, reference, feeds)
            session = Session(reference, bundle.manifest.fit)
            with load(bundle) as engine:
                compared = compare_sessions(engine, session, [(i, {}) for i, _ in scenes], tensors)
        found[name] = compared, {t.name: t for t in tensors}["depth_logits"]
    compared, depth = found["good"]
    assert LOGITS_TOLERANCE < depth.relative <= ROUNDING_FACTOR * depth.rounding, depth
    assert compared.passed, compared.verdict
    assert all(
        "rounding" not in t or t["name"] == "depth_logits" for t in compared.values()["tensors"]
    )
    compared, depth = found["faulty"]
    assert depth.relative > ROUNDING_FACTOR * depth.rounding
    assert not compared.passed
    assert "depth_logits: relative difference" in compared.verdict


def test_bench_counts_every_call_and_orders_percentiles(bundles, reference, pictures):
    with load(bundles["int8"]) as session:
        seen = []
        results = bench_sessions(
            {"a": session, "b": reference}, pictures, calls=15, warmup=1, advance=seen.append
        )
    assert sum(seen) >= 30
    for result in results.values():
        assert result.calls == 15
        for part in result.percentiles.values():
            assert 0 <= part["p50"] <= part["p90"] <= part["p99"] <= part["max"]
        total, net = (result.percentiles[k]["p50"] for k in ("total_ms", "net_ms"))
        assert total >= net > 0


def test_bench_keeps_a_cameras_rate(bundles, pictures):
    import time

    with load(bundles["int8"]) as session:
        start = time.perf_counter()
        bench_sessions({"a": session}, pictures, calls=10, warmup=0, rate=40)
    assert time.perf_counter() - start >= 11 / 40


def test_bench_without_images(bundles):
    with load(bundles["int8"]) as session, pytest.raises(InputError, match="no images"):
        bench_sessions({"a": session}, [])


def test_machine_says_where():
    assert set(machine()) == {"date", "cpu", "cores", "system", "python"}


def test_doctor_knows_what_is_here(monkeypatch):
    checks = {check.name: check for check in examine()}
    assert checks["cpu"].status in ("ok", "note")
    assert checks["backend onnxruntime"].status == "ok"
    from degmix_edge.backends.onnxruntime import Backend as Runtime

    monkeypatch.setattr(Runtime, "version", classmethod(lambda cls: "1.20.0"))
    checks = {check.name: check for check in examine()}
    assert checks["backend onnxruntime"].status == "missing"
    assert "pip install -U onnxruntime" in checks["backend onnxruntime"].advice


def test_a_nan_map_does_not_pass(bundles, reference, scenes):
    with load(bundles["fp32"]) as session:
        real = session.backend._infer
        session.backend._infer = lambda image: {
            k: v * np.float32(np.nan) if k == "depth" else v for k, v in real(image).items()
        }
        found = compare_sessions(session, reference, scenes)
    assert not found.passed
    assert found.worst == "depth"
