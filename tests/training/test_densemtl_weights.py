"""Weights in the form that DenseMTL's authors released."""

import json

import pytest
import torch
from degmix_training.authors import import_checkpoint
from public_densemtl import seen_some_images

from degmix_edge.cli import invoke
from degmix_edge.errors import CheckpointError
from degmix_edge.preprocess import MEAN

pytestmark = pytest.mark.slow

TASKS = {"semseg": 16, "depth": 1, "normals": 3, "edges": 2}
ORDER = {
    "semseg": ("normals", "edges", "depth"),
    "depth": ("semseg", "normals", "edges"),
    "normals": ("edges", "depth", "semseg"),
    "edges": ("depth", "semseg", "normals"),
}


@pytest.fixture(scope="module")
def public():
    return seen_some_images(TASKS, ORDER)


def released(folder, state, change=None):
    state = dict(state)
    if change:
        change(state)
    torch.save(state, folder / "released.pkl")
    return folder / "released.pkl"


def test_it_computes_what_the_public_code_does(public, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = released(tmp_path, public.state_dict())
    assert (
        invoke(["convert", str(path), "--out", "m.safetensors", "--size", "64x96", "--json"]) == 0
    )
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["network"]["backbone"] == "resnet50"
    assert found["network"]["widths"] == [4, 6, 6, 8, 8]
    assert {fate["key"] for fate in found["fates"]} == set(public.state_dict())
    assert "assumed: the backbone's last stage dilates" in err
    assert "normals: in the frame of their labels" in err

    from degmix_training.checkpoint import load
    from degmix_training.export import network_spec

    loaded = load(tmp_path / "m.safetensors")
    spec = network_spec(loaded)
    assert spec.mean == (0.45,) * 3 != MEAN
    assert spec.tasks[0].classes[:3] == ("road", "sidewalk", "building")
    rgb = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        want = public(rgb)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
        got = loaded.network((rgb - mean) / std)
    want["edge"] = want.pop("edges").diff(dim=1)
    assert list(got) == ["semseg", "depth", "normals", "edge"]
    for task, logits in got.items():
        if task == "depth":
            assert 1 < want[task].min() < want[task].max() < 1000
            want[task] = (65536 / want[task] - 1) / 100
        scale = want[task].abs().max()
        assert scale > 0.05
        assert (logits - want[task]).abs().max() <= 2e-5 * scale, task


def test_class_names_are_those_of_their_count(public, tmp_path):
    path = released(tmp_path, public.state_dict())
    for given, first in ((None, "road"), ({"semseg": tuple("abc")}, "road")):
        assert import_checkpoint(path, given).tasks["semseg"].classes[0] == first
    own = {"semseg": tuple(f"c{index}" for index in range(16))}
    assert import_checkpoint(path, own).tasks["semseg"].classes[0] == "c0"


def test_the_order_of_sources_is_told_by_statistics(public, tmp_path):
    found = import_checkpoint(released(tmp_path, public.state_dict()))
    for task, others in ORDER.items():
        (note,) = [n for n in found.notes if n.startswith(f"{task}: sources")]
        assert note.startswith(f"{task}: sources {', '.join(others)}, told"), found.notes

    def untrained(state):
        for key in state:
            if ".post.1.running_mean" in key:
                state[key] = torch.randn(6)

    found = import_checkpoint(released(tmp_path, public.state_dict(), untrained))
    assert any("NOT told clearly" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.update({"monodepth.x": torch.ones(1)}), "1 keys that nothing explains"),
        (lambda s: s.pop("m.depth.1.SxTAM_edges.alpha"), "1 of .* weights missing"),
        (lambda s: s.pop("heads.semseg.decoder.0.convs.4.2.bias"), "nothing explains"),
        (lambda s: s.pop("backbone.encoder.layer3.5.conv1.weight"), "weights missing"),
        (
            lambda s: s.update({"backbone.encoder.layer3.9.conv1.weight": torch.ones(1)}),
            "backbone not recognised: stages of",
        ),
        (
            lambda s: s.update({"m.depth.2.post.0.weight": torch.ones(1)}),
            r"exchange at 2 levels \(1, 2\)",
        ),
    ],
)
def test_files_that_are_refused(public, tmp_path, change, match):
    with pytest.raises(CheckpointError, match=match):
        import_checkpoint(released(tmp_path, public.state_dict(), change))
