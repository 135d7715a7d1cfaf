"""Losses by loops, checkpoints, and a real training run that is resumed."""

import json

import numpy as np
import pytest
import torch
from conftest import HEIGHT, NETWORK, WIDTH
from degmix_training import checkpoint, losses
from degmix_training.config import TrainConfig, preset
from safetensors.torch import save_file

from degmix_edge import config
from degmix_edge.errors import CheckpointError, ConfigError

RNG = np.random.default_rng(0)


def logits(channels: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=(2, channels, 3, 4)))


def pixels(shape=(2, 3, 4)):
    return np.ndindex(*shape)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_cross_entropy():
    x, y = logits(5), torch.from_numpy(RNG.integers(0, 5, (2, 3, 4)))
    y[0, 0, :2] = 255
    want = [
        -np.log(softmax(x[n, :, i, j].numpy())[y[n, i, j]])
        for n, i, j in pixels()
        if y[n, i, j] != 255
    ]
    assert losses.cross_entropy(x, y).item() == pytest.approx(np.mean(want))


def test_balanced_cross_entropy():
    x, y = logits(2), torch.from_numpy((RNG.random((2, 3, 4)) < 0.25).astype(np.uint8))
    y[0, 0, 0] = 255
    valid = [(n, i, j) for n, i, j in pixels() if y[n, i, j] != 255]
    negatives = np.mean([y[p] == 0 for p in valid])
    weight = (1 - negatives, negatives)
    want = [
        -weight[y[n, i, j]] * np.log(softmax(x[n, :, i, j].numpy())[y[n, i, j]])
        for n, i, j in valid
    ]
    assert losses.balanced_cross_entropy(x, y).item() == pytest.approx(np.mean(want))


def test_depth_and_normals():
    x, y = logits(1), torch.from_numpy(RNG.uniform(1, 5, (2, 3, 4)))
    y[1, 2] = 0
    want = [abs(x[n, 0, i, j] - y[n, i, j]).item() for n, i, j in pixels() if y[n, i, j] > 0]
    assert losses.depth_l1(x, y).item() == pytest.approx(np.mean(want))
    x, y = (
        logits(3),
        torch.nn.functional.normalize(torch.from_numpy(RNG.normal(size=(2, 3, 4, 3))), dim=-1),
    )
    y[0, 0, 0] = 0
    want = []
    for n, i, j in pixels():
        if y[n, i, j].abs().sum() > 0:
            unit = x[n, :, i, j] / x[n, :, i, j].norm()
            want.append((unit - y[n, i, j]).abs().sum().item())
    assert losses.normals_l1(x, y).item() == pytest.approx(np.mean(want))


def test_edge():
    x, y = logits(1), torch.from_numpy((RNG.random((2, 3, 4)) < 0.3).astype(np.uint8))
    y[0, 1, 1] = 255
    want = []
    for n, i, j in pixels():
        p = 1 / (1 + np.exp(-x[n, 0, i, j].item()))
        if y[n, i, j] != 255:
            want.append(-0.9 * np.log(p) if y[n, i, j] else -0.1 * np.log(1 - p))
    assert losses.edge_bce(x, y, 0.9).item() == pytest.approx(np.mean(want))


def test_no_valid_pixel_is_zero_and_not_nan():
    ignored = torch.full((2, 3, 4), 255)
    assert losses.cross_entropy(logits(5), ignored).item() == 0
    assert losses.edge_bce(logits(1), ignored).item() == 0
    assert losses.depth_l1(logits(1), torch.zeros(2, 3, 4)).item() == 0


def test_a_checkpoint_comes_back_bit_for_bit(loaded, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, loaded.network.state_dict(), loaded.card)
    again = checkpoint.load(path)
    assert again.card == loaded.card
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key
    assert not again.network.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


def refuse(path, match):
    with pytest.raises(CheckpointError, match=match):
        checkpoint.load(path)


def test_checkpoints_that_are_refused(loaded, checkpoint_path, tmp_path):
    bad = tmp_path / "bad.safetensors"
    refuse(tmp_path / "none.safetensors", "not a safetensors checkpoint|no such")
    bad.write_bytes(checkpoint_path.read_bytes()[:50_000])
    refuse(bad, "not a safetensors checkpoint")
    torch.save({"state_dict": {}}, bad)  # a pickle by another name
    refuse(bad, "not a safetensors checkpoint")
    save_file({"weight": torch.zeros(3)}, bad)
    refuse(bad, "these are weights of something else")
    state = loaded.network.state_dict()
    checkpoint.save(bad, {k: v for k, v in state.items() if "gate" not in k}, loaded.card)
    refuse(bad, r"weights are not those of model 'degmix': \d+ missing, 0 extra.*missing gate")
    wider = loaded.card.config.model_copy(update={"network": {**NETWORK, "dim": 32}})
    checkpoint.save(bad, state, loaded.card.model_copy(update={"config": wider}))
    refuse(bad, "of another shape")
    checkpoint.save(bad, state, loaded.card.model_copy(update={"model": "degmx"}))
    refuse(bad, "no model 'degmx'.*Did you mean 'degmix'")


def test_short_names():
    assert checkpoint.locate("degmix_tiny").exists()
    with pytest.raises(CheckpointError, match="Did you mean 'degmix_tiny'"):
        checkpoint.locate("degmix_tny")
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint file"):
        checkpoint.locate("none.safetensors")


def test_presets_and_settings(tmp_path):
    settings = config.load(TrainConfig, preset("degmix_tiny"))
    assert settings.task_specs()["semseg"].num_channels == 10
    with pytest.raises(ConfigError, match="Did you mean 'degmix_tiny'"):
        preset("degmix_tine")
    with pytest.raises(ConfigError, match="no task 'flow'"):
        config.load(TrainConfig, preset("degmix_tiny"), ["tasks=[flow]"]).task_specs()


SMALL = TrainConfig.model_validate(
    {
        "network": NETWORK,
        "tasks": ["semseg", "depth"],
        "height": HEIGHT,
        "width": WIDTH,
        "data": {"train": 8, "val": 4, "augment": "light"},
        "optim": {"name": "adamw", "lr": 2e-3},
        "batch_size": 2,
        "steps": 6,
        "val_every": 3,
    }
)


def test_training_learns_resumes_and_repeats(tmp_path):
    from degmix_training.fit import fit

    path = fit(SMALL, tmp_path / "a")
    card = checkpoint.read_card(path)
    assert card.step == 6
    assert set(card.scores) == {"semseg", "depth"}
    assert card.scores["depth"].constant > 0
    history = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert [row["step"] for row in history] == [3, 6]
    assert len(list((tmp_path / "a" / "log").glob("metrics.csv"))) == 1

    same = fit(SMALL, tmp_path / "b")
    first, second = (checkpoint.load(p).network.state_dict() for p in (path, same))
    assert all(torch.equal(first[key], second[key]) for key in first)

    longer = SMALL.model_copy(update={"steps": 9})
    assert checkpoint.read_card(fit(longer, tmp_path / "a", resume=True)).step == 9
    with pytest.raises(ConfigError, match="nothing to resume"):
        fit(SMALL, tmp_path / "c", resume=True)


def test_a_task_without_a_weight_is_refused(tmp_path):
    from degmix_training.fit import fit

    with pytest.raises(ConfigError, match="loss_weights: none for depth"):
        fit(SMALL.model_copy(update={"loss_weights": {"semseg": 1.0}}), tmp_path)
