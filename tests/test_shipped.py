"""The checkpoint that ships: what its card says, and that INT8 costs it next to nothing."""

import pytest
from degmix_training import checkpoint, data
from degmix_training.export import export_checkpoint

from degmix_edge import metrics
from degmix_edge.backends.torch_eager import Backend
from degmix_edge.runtime import Session, load
from degmix_edge.workflows.bench import bench_sessions
from degmix_edge.workflows.build import build
from degmix_edge.workflows.comparison import compare_sessions, tensor_differences

pytestmark = pytest.mark.slow(file_seconds=60)


@pytest.fixture(scope="module")
def shipped():
    return checkpoint.load(checkpoint.locate("degmix_tiny"))


@pytest.fixture(scope="module")
def held_out(shipped):
    return data.open_split("synthetic", "test", 64, shipped.card.height, shipped.card.width)


@pytest.fixture(scope="module")
def built(shipped, tmp_path_factory):
    train = data.open_split("synthetic", "train", 64, shipped.card.height, shipped.card.width)
    named = [(sample.name, sample.image) for sample in train]
    folder = tmp_path_factory.mktemp("shipped")
    exported = export_checkpoint(shipped)
    return {
        precision: build(exported, folder / precision, precision=precision, calibration=named)
        for precision in ("fp32", "int8")
    }


def test_it_is_small_and_knows_where_it_comes_from(shipped):
    assert shipped.path.stat().st_size <= 8_000_000
    assert shipped.path.name == f"degmix_tiny-{shipped.sha256[:8]}.safetensors"
    assert shipped.card.commit not in ("", "unknown")
    assert "dirty" not in shipped.card.commit
    text = shipped.path.with_suffix(".md").read_text()
    for score in shipped.card.scores.values():
        assert f"{score.value:.3f}" in text
    assert shipped.card.config.steps == shipped.card.step


def test_it_beats_a_constant_on_every_task(shipped):
    assert len(shipped.card.scores) == 6
    for task, score in shipped.card.scores.items():
        higher = metrics.find(score.metric).higher_is_better
        factor = score.value / score.constant
        assert factor > 1.4 if higher else factor < 0.6, task


def test_the_card_is_what_the_network_scores(shipped):
    from degmix_training.evaluate import network_predictor, score

    val = data.open_split("synthetic", "val", 100, shipped.card.height, shipped.card.width)
    specs = shipped.tasks
    found = score(network_predictor(shipped.network, specs, shipped.card.config), val, specs)
    for task, value in found.items():
        assert value == pytest.approx(shipped.card.scores[task].value, rel=2e-3), task


def test_int8_and_fp32_against_pytorch(shipped, built, held_out, capsys):
    manifest = built["fp32"].manifest
    torch_backend = Backend(manifest.network, shipped.network, raw_logits=True)
    samples = [(sample.image, sample.labels) for sample in held_out]
    with Session(torch_backend, manifest.fit) as reference:
        tensors = tensor_differences(
            built["fp32"], torch_backend, [image for image, _ in samples[:4]]
        )
        for tensor in tensors:
            assert tensor.equal is None or tensor.equal >= 0.999
            assert tensor.relative <= 1e-4 or not tensor.name.endswith("_logits"), tensor
        with load(built["int8"]) as int8:
            found = compare_sessions(int8, reference, samples, max_drop=0.02)
            assert found.passed, found.verdict
            results = bench_sessions({"int8": int8, "torch": reference}, [samples[0][0]], calls=30)
    ratio = results["torch"].median_net_ms / results["int8"].median_net_ms
    with capsys.disabled():
        drops = ", ".join(f"{t.task} {100 * t.drop:+.2f} %" for t in found.tasks.values())
        print(f"\ndegmix_tiny int8, worse by: {drops}; engine call {ratio:.1f} x PyTorch eager")


def test_the_int8_bundle_is_a_third_of_the_fp32_one(built):
    ratio = built["int8"].size_bytes / built["fp32"].size_bytes
    assert ratio <= 0.35
