"""The checkpoints that ship: what their cards say, and that INT8 costs next to nothing."""

import contextlib
import io
import json
import shutil

import onnx
import pytest
from degmix_training import checkpoint

from degmix_edge import metrics
from degmix_edge.bundle.contents import open_bundle, recipe_and_ranges
from degmix_edge.cli import invoke

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
        "degmix_tiny.fp32.degmix",
        "degmix_tiny.int8.degmix",
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
        assert tensor["relative"] <= 1e-4 or not tensor["name"].endswith("_logits"), tensor
    assert int8["images"] == 64
    assert int8["passed"], int8["verdict"]
    assert all(task["drop"] <= 0.02 for task in int8["tasks"])
    with capsys.disabled():
        drops = ", ".join(f"{t['task']} {100 * t['drop']:+.2f} %" for t in int8["tasks"])
        ratio = results["speedup_net"]["int8"]
        print(f"\ndegmix_tiny int8, worse by: {drops}; engine call {ratio:.1f} x PyTorch eager")


def test_the_int8_bundle_is_a_third_of_the_fp32_one(demo):
    sizes = {p: open_bundle(demo / f"degmix_tiny.{p}.degmix").size_bytes for p in ("fp32", "int8")}
    assert sizes["int8"] / sizes["fp32"] <= 0.35


def test_another_demo_takes_the_bundles_of_the_first(demo, tmp_path, capfd):
    shutil.copytree(demo, tmp_path / "demo")
    again = ["demo", "--out", str(tmp_path / "demo"), "--scenes", "1", "--calls", "1"]
    assert invoke(again) == 0
    assert capfd.readouterr().err.count("from an earlier demo") == 2


def test_the_ready_bundle_is_what_build_makes(demo):
    """Ranges are sums over pixels, which another processor adds in another order."""
    from degmix_edge.bundle.ready import FOLDER

    ready, built = (
        open_bundle(path)
        for path in (FOLDER / "degmix_tiny.degmix", demo / "degmix_tiny.int8.degmix")
    )
    assert ready.manifest.network.source.sha256 == built.manifest.network.source.sha256
    for name in ("network", "fit", "inputs", "outputs", "precision"):
        assert getattr(ready.manifest, name) == getattr(built.manifest, name), name
    assert ready.read("recipe.yaml") == built.read("recipe.yaml")
    ours, theirs = (recipe_and_ranges(bundle)[1].tensors for bundle in (ready, built))
    assert ours.keys() == theirs.keys()
    for name, own in ours.items():
        assert own.amax == pytest.approx(theirs[name].amax, rel=0.02), name
    graphs = [onnx.load_from_string(bundle.onnx()).graph for bundle in (ready, built)]
    nodes = [[(node.op_type, *node.input, *node.output) for node in g.node] for g in graphs]
    assert nodes[0] == nodes[1]
