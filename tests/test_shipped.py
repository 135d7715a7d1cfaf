"""The checkpoints that ship: what their cards say, and that INT8 costs next to nothing."""

import contextlib
import io
import json
import shutil

import onnx
import pytest
from degmix_training import checkpoint

from degmix_edge import metrics
from degmix_edge.bundle import ready
from degmix_edge.bundle.contents import open_bundle, recipe_and_ranges
from degmix_edge.cli import invoke
from degmix_edge.workflows.build import build
from degmix_edge.workflows.comparison import ROUNDING_FACTOR
from degmix_edge.workflows.demo import SCENES_SHOWN
from degmix_edge.workflows.demo import demo as run_demo
from degmix_edge.workflows.demo_report import CHECKPOINT

pytestmark = pytest.mark.slow(file_seconds=80)
NAMES = ("degmix_lite0", "degmix_tiny")


@pytest.fixture(scope="module", params=NAMES)
def shipped(request):
    return checkpoint.load(checkpoint.locate(request.param))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of the demo as people type it, which compares on 64 held-out scenes."""
    folder = tmp_path_factory.mktemp("shipped") / "demo"
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = invoke(["demo", "--out", str(folder), "--calls", "6"])
    assert code == 0, err.getvalue()
    return folder


@pytest.fixture(scope="module")
def results(demo):
    return json.loads((demo / "results.json").read_text())


def test_it_is_small_and_knows_where_it_comes_from(shipped):
    assert shipped.path.stat().st_size <= 8_000_000
    assert shipped.path.stem in {f"{name}-{shipped.sha256[:8]}" for name in NAMES}
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

    config, specs = shipped.card.config, shipped.tasks
    val = config.open_data().open_split("val", config.tasks, config.data.val)
    found = score(network_predictor(shipped.network, specs, config), val, specs)
    for task, value in found.items():
        assert value == pytest.approx(shipped.card.scores[task].value, rel=2e-3), task


def test_the_demo_writes_its_report(demo):
    names = sorted(path.name for path in demo.iterdir())
    assert names == [
        f"{CHECKPOINT}.fp32.degmix",
        f"{CHECKPOINT}.int8.degmix",
        "report.html",
        "results.json",
        "sheet.png",
    ]
    page = (demo / "report.html").read_text()
    # The image, its thumbnail, six tasks of two maps and a difference, and the normals' sphere of
    # five photographs; three scenes have the labels too.
    assert page.count("<img") == 5 * (3 + 6 * 3) + 3 * (3 + 6 * 4)


def test_int8_and_fp32_against_pytorch(results, capsys):
    fp32, int8 = (results["comparisons"][precision] for precision in ("fp32", "int8"))
    assert len(fp32["tensors"]) == 2 * len(fp32["tasks"]) == 12
    for tensor in fp32["tensors"]:
        assert tensor["equal"] is None or tensor["equal"] >= 0.999
        if tensor["name"].endswith("_logits"):
            # PyTorch itself is 9e-5 from float64 of human parts, which amplify rounding.
            rounding = tensor.get("rounding", 0.0)
            assert rounding <= 2e-4, tensor
            assert tensor["relative"] <= max(1e-4, ROUNDING_FACTOR * rounding), tensor
        assert tensor["mean"] <= 1e-5, tensor
    assert int8["images"] == 64
    assert int8["passed"], int8["verdict"]
    assert all(task["drop"] <= 0.02 for task in int8["tasks"])
    with capsys.disabled():
        drops = ", ".join(f"{t['task']} {100 * t['drop']:+.2f} %" for t in int8["tasks"])
        ratio = results["speedup_net"]["int8"]
        print(f"\n{CHECKPOINT} int8, worse by: {drops}; engine call {ratio:.1f} x PyTorch eager")


def test_the_int8_bundle_is_a_third_of_the_fp32_one(demo):
    sizes = {p: open_bundle(demo / f"{CHECKPOINT}.{p}.degmix").size_bytes for p in ("fp32", "int8")}
    assert sizes["int8"] / sizes["fp32"] <= 0.35


def test_another_demo_takes_the_bundles_of_the_first(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "demo")
    events = []
    run_demo(tmp_path / "demo", scenes=SCENES_SHOWN, calls=1, progress=events.append)
    assert sum("from an earlier demo" in event.detail for event in events) == 2


@pytest.fixture(params=ready.names())
def shipped_and_built(request, demo, tmp_path):
    """A bundle that ships, and the same built now; the demo has built one of them."""
    name = request.param
    if name == CHECKPOINT:
        built = open_bundle(demo / f"{name}.int8.degmix")
    else:
        built = build(name, tmp_path / "a.degmix", calibration="synthetic:64")
    return open_bundle(ready.FOLDER / f"{name}.degmix"), built


def test_a_ready_bundle_is_what_build_makes(shipped_and_built):
    """Ranges are sums over pixels, which another processor adds in another order."""
    shipped, built = shipped_and_built
    assert shipped.manifest.network.source.sha256 == built.manifest.network.source.sha256
    for name in ("network", "fit", "inputs", "outputs", "precision"):
        assert getattr(shipped.manifest, name) == getattr(built.manifest, name), name
    assert shipped.read("recipe.yaml") == built.read("recipe.yaml")
    ours, theirs = (recipe_and_ranges(bundle)[1].tensors for bundle in shipped_and_built)
    assert ours.keys() == theirs.keys()
    for name, own in ours.items():
        assert own.amax == pytest.approx(theirs[name].amax, rel=0.02), name
    graphs = [onnx.load_from_string(bundle.onnx()).graph for bundle in shipped_and_built]
    nodes = [[(node.op_type, *node.input, *node.output) for node in g.node] for g in graphs]
    assert nodes[0] == nodes[1]
