"""The trainings of a zoo on Ray: those of one after the other, resumed, and ended early by ASHA."""

import json
import statistics

import pytest
import torch
import yaml
from conftest import HEIGHT, WIDTH
from degmix_training import checkpoint
from degmix_training.fit import fit
from degmix_training.processes import Machine
from degmix_training.zoo import ZooConfig

from degmix_edge import config
from degmix_edge.errors import ConfigError, TrainingError
from degmix_edge.progress import listening
from degmix_edge.workflows.zoo import zoo
from degmix_edge.workflows.zoo.train import saved_step, stopped_step
from degmix_edge.workflows.zoo.trials import Cluster, train_on_ray

pytest.importorskip("ray.tune")
pytestmark = [pytest.mark.ray, pytest.mark.slow(file_seconds=80)]
CPU = Machine(accelerator="cpu")
ZOO = {
    "backbone": "test_resnet",
    "reference": "baseline",
    "also": ["synthetic:6"],
    "baseline": {"model": "baseline", "network": {"head_channels": 8}},
    "entries": {"wide": {"model": "baseline", "network": {"head_channels": 12}}},
    "train": {
        "tasks": ["semseg", "depth"],
        "height": HEIGHT,
        "width": WIDTH,
        "data": {"name": "synthetic", "train": 12, "val": 4, "augment": "light"},
        "optim": {"name": "adamw", "lr": 2e-3},
        "batch_size": 4,
        "steps": 4,
        "val_every": 2,
    },
}
OPTIONS = {"seeds": 2, "workers": 2, "machine": CPU, "calibration_count": 2, "calls": 2}


def weights(folder):
    state = checkpoint.load(folder / "run" / "last.safetensors").network.state_dict()
    return {name: value for name, value in state.items() if value.is_floating_point()}


def write(folder):
    (folder / "zoo.yaml").write_text(yaml.safe_dump({"version": 1, **ZOO}))


def settings():
    return config.parse(ZooConfig, ZOO, "a zoo")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A zoo of two seeds on Ray; one of its trainings was interrupted before."""

    def stop(event):
        if event.kind == "step" and event.done == 3:
            raise KeyError(event.name)

    folder = tmp_path_factory.mktemp("zoo")
    write(folder)
    with pytest.raises(KeyError):
        fit(settings().trainings()["wide"], folder / "wide" / "run", machine=CPU, progress=stop)
    assert saved_step(folder / "wide" / "run") == 2
    events = []
    result = zoo(folder / "zoo.yaml", folder, **OPTIONS, progress=events.append)
    return folder, result, events


def test_it_trains_what_one_after_the_other_trains(finished, tmp_path):
    folder, _, _ = finished
    torch.set_num_threads(1)
    for name, asked in settings().model_copy(update={"seeds": (0, 1)}).trainings().items():
        fit(asked, tmp_path / name / "run", machine=CPU)
        own, serial = weights(folder / name), weights(tmp_path / name)
        assert all(torch.equal(own[key], value) for key, value in serial.items()), name
        scores = [f / name / "run" / "scores.json" for f in (folder, tmp_path)]
        assert scores[0].read_text() == scores[1].read_text()


def test_what_was_trained_before_is_not_trained_again(finished):
    folder, _, events = finished
    training = [event for event in events if event.name == "train 4 networks on Ray"]
    assert [event.kind for event in training].count("finished") == 1
    done = [event.done for event in training if event.kind == "step"]
    assert done == sorted(done)
    assert done[-1] == training[-1].total == 16
    told = [event.detail.split("  ")[1] for event in training if event.kind == "note"]
    assert sorted(told) == sorted(
        f"{name}{seed}: step {step}/4"
        for name in ("baseline", "wide")
        for seed in ("", "/seed-1")
        for step in (2, 4)
    )
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    rows = {path: path.stat().st_mtime_ns for path in folder.rglob("row.json")}
    assert len(rows) == 2
    events = []
    zoo(folder / "zoo.yaml", folder, **OPTIONS, progress=events.append)
    assert not any(event.name.startswith("train") for event in events)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert rows == {path: path.stat().st_mtime_ns for path in folder.rglob("row.json")}


def test_the_report_has_means_and_deviations_over_seeds(finished):
    folder, result, _ = finished
    (row,), trainings = result.networks, result.trainings
    assert row.seeds == (0, 1)
    assert [one.seeds for one in trainings] == [(0,), (1,)]
    numbers = json.loads((folder / "zoo.json").read_text())
    for task in ("semseg", "depth"):
        each = [one.int8[task] for one in trainings]
        assert each[0] != each[1]
        assert numbers["networks"][0]["int8"][task] == pytest.approx(statistics.mean(each))
        assert numbers["networks"][0]["std"]["int8"][task] == pytest.approx(statistics.stdev(each))
    for one in trainings:
        name = result.zoo.run_name("baseline", one.seeds[0])
        card = checkpoint.read_card(folder / name / "run" / "best.safetensors")
        depth, semseg = (card.scores[task].value for task in ("depth", "semseg"))
        gain = (one.int8["semseg"] - semseg) / semseg - (one.int8["depth"] - depth) / depth
        assert one.delta_m["int8"] == pytest.approx(100 * gain / 2)
    gains = [one.delta_m["int8"] for one in trainings]
    assert row.delta_m["int8"] == pytest.approx(statistics.mean(gains))
    assert row.std["delta_m"]["int8"] == pytest.approx(statistics.stdev(gains))
    there = row.also["synthetic:6"]
    assert there.images == 6
    assert 0 < there.calibration["semseg"] < 100
    assert there.values.keys() == {"semseg", "depth"}
    page = (folder / "zoo.html").read_text()
    assert page.count('class="error"') > 4
    assert "Accuracy on synthetic:6" in page
    assert "Error bars are one standard deviation over seeds." in page
    assert "(2 seeds)" in result.verdict


def test_asha_ends_what_is_behind_and_a_failure_says_why(tmp_path):
    train = settings().train.model_copy(update={"val_every": 1, "seed": 3})
    runs = settings().model_copy(update={"train": train}).trainings()
    for name, asked in runs.items():
        fit(asked, tmp_path / name / "run", machine=CPU)  # ASHA compares with earlier trainings
    for name, change in (("stuck", {"lr": 1e-12}), ("broken", {"name": "sgd", "lr": 1e18})):
        optim = runs["wide"].optim.model_copy(update=change)
        runs[name] = runs["wide"].model_copy(update={"optim": optim})
    events = []
    with listening(events.append), pytest.raises(TrainingError) as caught:
        train_on_ray(runs, tmp_path, Cluster(asha=True), references=["baseline"], machine=CPU)
    assert "broken: training ended at step " in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    step = stopped_step(tmp_path / "stuck", 4)
    assert 0 < step < 4
    assert step == saved_step(tmp_path / "stuck" / "run")
    text = f"stuck: ASHA has stopped it at step {step} of 4"
    assert [event.detail for event in events if "ASHA" in event.detail] == [text]
    # The next call with ASHA leaves it as it is: nothing is trained, so no cluster is needed.
    del runs["broken"]
    on = Cluster(address="127.0.0.1:9", asha=True)
    train_on_ray(runs, tmp_path, on, references=["baseline"], machine=CPU)
    with pytest.raises(ConfigError, match="nothing answers"):  # without ASHA, it trains further
        train_on_ray(runs, tmp_path, Cluster(address="127.0.0.1:9"), references=(), machine=CPU)


def test_wrong_options_are_refused_before_any_training(tmp_path):
    write(tmp_path)
    for options, message in (
        ({"workers": 0}, "workers: got 0, expected at least 1"),
        ({"workers": 2, "machine": Machine(devices=2)}, "a training on Ray has one process"),
        ({"address": "127.0.0.1:9"}, "nothing answers there"),
        ({"seeds": "x"}, "expected a number of seeds"),
        ({"overrides": ["also=[synthetic_shifted:9]"]}, "the network has 10 classes"),
    ):
        with pytest.raises(ConfigError, match=message):
            zoo(tmp_path / "zoo.yaml", tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*/run"))
