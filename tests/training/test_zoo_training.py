"""Training of the zoo's networks: side losses, what is decided before it, schedules, settings."""

import csv

import pytest
import torch
from conftest import HEIGHT, WIDTH, small
from degmix_training import checkpoint
from degmix_training.config import TrainConfig
from degmix_training.fit import fit
from degmix_training.zoo import ZooConfig, zoo_file, zoos
from layouts import cityscapes

from degmix_edge import config
from degmix_edge.errors import ConfigError

pytestmark = pytest.mark.slow

TASKS = ("semseg", "depth")


def settings(model, network=None, **more):
    values = {
        "model": model,
        "network": small(model) | (network or {}),
        "tasks": TASKS,
        "height": HEIGHT,
        "width": WIDTH,
        "data": {"train": 8, "val": 4, "augment": "light"},
        "optim": {"name": "adamw", "lr": 2e-3},
        "batch_size": 4,
        "steps": 2,
        "val_every": 2,
    }
    return TrainConfig.model_validate(values | more)


def losses(folder):
    with (folder / "log" / "metrics.csv").open() as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


NETWORKS = [
    ("padnet", {"auxiliary": ["edge"]}, {"loss/edge@initial", "loss/semseg@initial"}),
    ("densemtl", {"depth": "inverse"}, {"loss/depth@side"}),
    ("m3vit", {"noise": 1.0}, {"loss/@balance", "loss/semseg@distil2"}),
    ("taskexpert", {}, {"loss/depth"}),
    ("mlore", {}, {"loss/@balance"}),
    ("taskprompter", {"drop_path": 0.2}, {"loss/depth"}),
    ("invpt", {}, {"loss/semseg@initial", "loss/depth@initial"}),
]


@pytest.mark.parametrize(("model", "network", "names"), NETWORKS)
def test_a_network_trains_with_all_its_losses(model, network, names, tmp_path):
    asked = settings(model, network)
    if network.get("depth") == "inverse":
        asked = asked.model_copy(update={"depth_loss": "inverse_berhu"})
    trained = checkpoint.load(fit(asked, tmp_path))
    assert names <= losses(tmp_path)
    assert list(trained.tasks) == list(TASKS)  # auxiliary tasks are no outputs
    assert all(torch.isfinite(p).all() for p in trained.network.parameters())
    assert trained.network(torch.zeros(1, 3, HEIGHT, WIDTH))["depth"].shape[1] == 1


def test_a_partition_is_decided_once_before_training_and_kept(tmp_path):
    network = {"partially_dynamic": {"share": 0.25, "structured": False}}
    asked = settings("baseline", network)

    def masks(path):
        state = checkpoint.load(path).network.state_dict()
        return [value for key, value in state.items() if key.endswith(".mask")]

    first = masks(fit(asked, tmp_path / "a"))
    kept = sum(int(mask.sum()) for mask in first)
    assert kept == round(0.25 * sum(mask.numel() for mask in first))
    again = masks(fit(asked.model_copy(update={"steps": 4}), tmp_path / "a", resume=True))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    loaded = checkpoint.load(tmp_path / "a" / "last.safetensors").network
    temperature = [b for n, b in loaded.named_buffers() if n.endswith("temperature")]
    assert all(t == 1 for t in temperature)  # annealed over the first sixth


def test_routers_fade_out_until_the_end(tmp_path):
    asked = settings("m3vit", {"fade": 0.75}, steps=20, val_every=20)
    loaded = checkpoint.load(fit(asked, tmp_path))
    assert loaded.network.folds == ("drop_routers",)


def test_auxiliary_tasks_need_labels_and_weights(tmp_path):
    asked = settings("padnet", {"auxiliary": ["edge"]}, loss_weights={"semseg": 1.0, "depth": 1.0})
    with pytest.raises(ConfigError, match="loss_weights: none for edge"):
        fit(asked, tmp_path)
    cityscapes(tmp_path / "city")
    data = {"name": "cityscapes", "root": str(tmp_path / "city")}
    with pytest.raises(ConfigError, match="has no labels for task 'edge'"):
        settings("padnet", {"auxiliary": ["edge"]}, data=data).task_specs()


@pytest.mark.parametrize("name", zoos())
def test_zoos_of_the_package_can_be_made(name):
    loaded = config.load(ZooConfig, zoo_file(name))
    assert len(loaded.references()) in (1, len(loaded.train.tasks))
    for entry in loaded.entries:
        made = loaded.settings(entry)
        assert made.steps == (loaded.entries[entry].steps or loaded.train.steps)
        assert loaded.backbone_of(entry) in (loaded.backbone, made.network["backbone"])


def test_an_entry_may_have_weights_and_steps_of_its_own():
    values = config.load(ZooConfig, zoo_file("smoke")).model_dump(mode="json")
    entries = {
        "plain": {"model": "degmix"},
        "own": {"model": "degmix", "loss_weights": {"depth": 4}, "balance": "dwa", "steps": 7},
    }
    zoo = config.parse(ZooConfig, values | {"entries": entries}, "a zoo")
    plain, own = zoo.settings("plain"), zoo.settings("own")
    assert (plain.loss_weights, plain.balance) == (zoo.train.loss_weights, "fixed")
    assert (own.loss_weights, own.balance) == (zoo.train.loss_weights | {"depth": 4}, "dwa")
    assert (plain.steps, own.steps) == (zoo.train.steps, 7)
    single = zoo.references()["single-depth"]
    assert (single.loss_weights, single.steps) == (zoo.train.loss_weights, zoo.train.steps)


def test_a_zoo_of_wrong_settings_says_which():
    values = config.load(ZooConfig, zoo_file("smoke")).model_dump(mode="json")
    for change, message in (
        ({"entries": {"x": {"model": "padne"}}}, "Did you mean 'padnet'"),
        ({"entries": {"x": {"model": "padnet", "network": {"wide": 3}}}}, "unknown.*'wide'|wide"),
        ({"entries": {"single-depth": {"model": "padnet"}}}, "kept for the networks"),
        ({"entries": {}}, "at least 1"),
        (
            {"entries": {"x": {"model": "padnet", "loss_weights": {"dept": 1}}}},
            "entries.x: loss_weights: no task 'dept'.*Did you mean 'depth'",
        ),
        ({"entries": {"x": {"model": "padnet", "balance": "evenly"}}}, "balance"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.parse(ZooConfig, values | change, "a zoo")
    with pytest.raises(ConfigError, match="no zoo 'smok'.*Did you mean 'smoke'"):
        zoo_file("smok")
    with pytest.raises(ConfigError, match="no zoo entry 'padne'.*Did you mean 'padnet'"):
        config.load(ZooConfig, zoo_file("smoke")).choose(["padne"])
