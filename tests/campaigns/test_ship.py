"""What `training/ship.py` ships and refuses, and a short slice of `transfer.py`."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transfer
from degmix_training import checkpoint
from degmix_training.data import synthetic_varied

from degmix_edge.workflows.training import train

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))
import ship

pytestmark = pytest.mark.slow(file_seconds=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("ship") / "run"
    settings = ["height=64", "width=96", "steps=1", "val_every=1", "batch_size=2"]
    settings += ["data={name: synthetic_varied, train: 2, val: 2, augment: light}"]
    settings += ["network.backbone=mobilenetv4_conv_small_050", "network.dim=16"]
    return train("degmix_tiny", out, overrides=[*settings, "optim.warmup=0"])


def test_what_ships_is_half_as_large_and_says_what_it_scores(tmp_path, monkeypatch, capsys):
    tiny, source = checkpoint.load(checkpoint.locate("degmix_tiny")), tmp_path / "run.safetensors"
    config = tiny.card.config
    config = config.model_copy(update={"data": config.data.model_copy(update={"val": 2})})
    card = tiny.card.model_copy(update={"config": config})
    checkpoint.save(source, tiny.network.state_dict(), card)
    out = tmp_path / "weights"
    out.mkdir()
    (out / "small-0.md").write_text("an older one")
    monkeypatch.setattr(sys, "argv", ["ship.py", str(source), "small", "--out", str(out)])
    ship.main()
    (file,) = out.glob("*.safetensors")
    assert list(out.glob("*.md")) == [file.with_suffix(".md")]
    assert file.stat().st_size < 0.6 * source.stat().st_size
    shipped = checkpoint.load(file)
    assert file.name == f"small-{shipped.sha256[:8]}.safetensors"
    before = tiny.network.state_dict()
    for key, value in shipped.network.state_dict().items():
        assert value.dtype == before[key].dtype
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-6)
    again = ship.rescored(shipped)
    text = file.with_suffix(".md").read_text()
    for task, old in shipped.card.scores.items():
        assert again.scores[task].value == pytest.approx(old.value, rel=1e-6)
        assert f"{old.value:.3f}" in text


def test_what_is_no_better_than_a_constant_does_not_ship(run, tmp_path, monkeypatch):
    arguments = ["ship.py", str(run.checkpoint), "small", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="no better than a constant on "):
        ship.main()
    assert not list(tmp_path.glob("small*"))


def test_networks_of_more_classes_are_scored_on_the_common_ones(run, tmp_path, monkeypatch, capsys):
    names = [str(run.checkpoint), "degmix_tiny"]
    monkeypatch.setattr(
        sys, "argv", ["transfer.py", *names, "--count", "2", "--out", str(tmp_path)]
    )
    transfer.main()
    found = json.loads((tmp_path / "scores.json").read_text())
    assert set(found) == set(names)
    for results in found.values():
        assert set(results) == {*transfer.SETS, "motorcycle"}
        assert set(results["varied"]) == set(synthetic_varied.CLASSES)
        assert 0 < results["motorcycle"]["factor"] < 1000
    assert found["degmix_tiny"]["plain"]["depth"] < found[names[0]]["plain"]["depth"]
    assert (tmp_path / "degmix_tiny.png").exists()
