"""Weights of the tasks' losses, distillation and consistency between tasks."""

import csv
import math

import numpy as np
import pytest
import torch
from conftest import task_specs
from degmix_training import checkpoint
from degmix_training.balance import Dwa, Gradnorm, Uncertainty
from degmix_training.config import TrainConfig
from degmix_training.data import synthetic
from degmix_training.distillation import (
    Teacher,
    edges_agree,
    imitation,
    normals_agree,
    normals_of_depth,
)
from degmix_training.fit import fit

from degmix_edge.errors import ConfigError

pytestmark = pytest.mark.slow(file_seconds=15)

SPECS = task_specs(("semseg", "depth"))


def same(values):
    return values


def losses(semseg, depth):
    return {"semseg": torch.tensor(semseg), "depth": torch.tensor(depth)}


def test_uncertainty_finds_the_variance_of_each_task():
    balance = Uncertainty(SPECS)
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.05)
    for step in range(3000):
        optimizer.zero_grad()
        balance(losses(0.5, 4.0), same, step).backward()
        optimizer.step()
    # At the minimum: exp(-s) L = 1/2 for a classification, exp(-s) L = 1 for a regression.
    assert balance.log_variance.tolist() == pytest.approx([0.0, math.log(4)], abs=1e-3)
    assert balance.weights() == pytest.approx({"semseg": 1.0, "depth": 0.125}, abs=1e-3)


def test_dwa_weights_what_falls_slowly():
    balance = Dwa(("semseg", "depth"), period=2)
    for step, values in enumerate([(4.0, 4.0), (4.0, 4.0), (2.0, 4.0), (2.0, 4.0)]):
        total = balance(losses(*values), same, step)
        assert total == sum(values)  # equal weights in the first two epochs
    ratios = np.exp(np.array([0.5, 1.0]) / 2)
    want = dict(zip(balance.tasks, 2 * ratios / ratios.sum(), strict=True))
    assert balance.weights() == pytest.approx(want, rel=1e-5)
    again = Dwa(("semseg", "depth"), period=2)
    again.load_state_dict(balance.state_dict())
    assert again.weights() == balance.weights()


def test_gradnorm_evens_gradients_out():
    shared = torch.nn.Parameter(torch.ones(3, 1))
    balance = Gradnorm(("semseg", "depth"), shared, alpha=0.0, lr=0.01)
    for step in range(500):
        values = {"semseg": 9 * shared.sum(), "depth": shared.sum()}
        total = balance(values, same, step)
    assert total.requires_grad
    weights = balance.weights()
    assert weights["semseg"] * 9 == pytest.approx(weights["depth"], rel=0.1)
    assert sum(weights.values()) == pytest.approx(2)
    assert shared.grad is None


def test_normals_of_a_depth_map_are_those_of_the_scene():
    scene = synthetic.render(3, 96, 128)
    depth = torch.from_numpy(scene.depth)[None, None]
    focal = float(scene.intrinsics[0, 0])
    implied, smooth = normals_of_depth(depth, focal)
    want = torch.from_numpy(scene.normals).permute(2, 0, 1)[None, :, :-1, :-1]
    cosine = (implied * want).sum(1, keepdim=True)[smooth > 0]
    assert smooth.mean() > 0.7
    assert cosine.median() > 0.999
    right = torch.from_numpy(scene.normals).permute(2, 0, 1)[None]
    assert normals_agree(right, depth, focal) < normals_agree(-right, depth, focal) / 5


def test_edges_cost_only_where_they_miss_a_boundary():
    semseg = torch.full((1, 2, 4, 4), -20.0)
    semseg[:, 0, :, :2], semseg[:, 1, :, 2:] = 20, 20
    nowhere, everywhere = torch.full((1, 1, 4, 4), -20.0), torch.full((1, 1, 4, 4), 20.0)
    assert edges_agree(everywhere, semseg) == pytest.approx(0, abs=1e-6)
    assert edges_agree(nowhere, semseg) == pytest.approx(3 / 9, abs=1e-6)


def test_a_teacher_is_nearest_to_itself():
    for task, spec in task_specs().items():
        logits = torch.randn(2, spec.num_channels, 4, 4)
        own = imitation(logits, logits, spec, 2.0)
        assert own < imitation(logits + torch.randn_like(logits), logits, spec, 2.0), task
        if task != "edge":  # cross-entropy has the teacher's own entropy
            assert own == pytest.approx(0, abs=1e-6)


def settings(loaded, **changes):
    values = {"tasks": ["semseg", "depth", "normals", "edge"], "steps": 2, "val_every": 2}
    values |= {"data": {"train": 4, "val": 2, "augment": "none"}, "batch_size": 2}
    card = loaded.card
    values |= {"height": card.height, "width": card.width, "network": card.config.network}
    return TrainConfig.model_validate(values | changes)


@pytest.mark.parametrize("balance", ["uncertainty", "gradnorm", "dwa"])
def test_a_run_balances_logs_and_resumes(balance, loaded, checkpoint_path, tmp_path):
    changes = {"balance": balance, "consistency": {"normals": 0.1, "edges": 0.1}}
    changes["distill"] = {"teacher": str(checkpoint_path)}
    fit(settings(loaded, **changes), tmp_path / "run")
    before = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    before = {k: v for k, v in before.items() if k.startswith("objective.")}
    assert before
    assert any(value.any() for value in before.values())
    with (tmp_path / "run" / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = {name for row in rows for name, value in row.items() if value}
    assert {f"balance/{task}" for task in ("semseg", "depth", "normals", "edge")} <= columns
    assert {"loss/distill/edge", "loss/consistency/normals", "loss/consistency/edges"} <= columns
    path = fit(settings(loaded, **changes, steps=3), tmp_path / "run", resume=True)
    assert checkpoint.read_card(path).step == 3


def test_what_does_not_fit_is_refused(loaded, checkpoint_path, tmp_path):
    few = settings(loaded, tasks=["semseg", "normals"], consistency={"normals": 1.0})
    with pytest.raises(ConfigError, match="consistency.normals: .* this run has no depth"):
        fit(few, tmp_path / "a")
    with pytest.raises(ConfigError, match="gradnorm compares gradients at the backbone, which is"):
        fit(settings(loaded, balance="gradnorm", freeze_backbone=True), tmp_path / "b")
    specs = {"mask": SPECS["semseg"].model_copy(update={"name": "mask"})}
    with pytest.raises(ConfigError, match="has no task 'mask'; it has semseg"):
        Teacher.load(checkpoint_path, specs, 2.0, torch.device("cpu"))
    specs = {"semseg": SPECS["semseg"].model_copy(update={"classes": ("a", "b")})}
    with pytest.raises(ConfigError, match="semseg has other classes"):
        Teacher.load(checkpoint_path, specs, 2.0, torch.device("cpu"))
