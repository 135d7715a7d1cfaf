"""Training in two processes on CPUs, as torchrun and Lightning start them."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NETWORK
from degmix_training import sync_batchnorm, watchdog
from degmix_training.child import fit_in_child
from degmix_training.config import TrainConfig
from degmix_training.fit import fit
from degmix_training.processes import Machine
from timm.layers import BatchNormAct2d
from torch import nn

from degmix_edge import config
from degmix_edge.errors import ConfigError, OutputError, TrainingError
from degmix_edge.progress import listening

pytestmark = pytest.mark.slow(file_seconds=105)

SETTINGS = {
    "network": NETWORK,
    "tasks": ["semseg", "depth", "normals", "edge"],
    "height": 64,
    "width": 96,
    "data": {"train": 16, "val": 4, "augment": "none"},
    "optim": {"lr": 1e-3},
    "batch_size": 4,
    "steps": 6,
    "val_every": 1,
}


def start(tmp_path: Path, name: str, *options: str, **changes) -> tuple[subprocess.Popen, Path]:
    path, out = tmp_path / f"{name}.yaml", tmp_path / name
    path.write_text(config.dump(TrainConfig.model_validate(SETTINGS | changes)))
    command = [sys.executable, "-m", "degmix_edge", "train", str(path), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--accelerator", "cpu", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, out


def curve(out: Path) -> list[dict[str, float]]:
    with (out / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [{k: float(v) for k, v in row.items() if v and k.startswith("loss")} for row in rows]
    return [row for row in losses if row]  # scores have rows of their own


def test_two_processes_learn_as_one_does(tmp_path):
    alone = tmp_path / "one"
    fit(TrainConfig.model_validate(SETTINGS), alone, machine=Machine("cpu"))
    two, shared = start(tmp_path, "two", "--devices", "2")
    assert two.wait(120) == 0, two.stdout.read()
    a, b = curve(alone), curve(shared)
    assert len(a) == len(b) == 6
    for task in ("loss/semseg", "loss/depth", "loss/normals", "loss/edge"):
        # Nothing differs before the first update but the order of sums.
        assert b[0][task] == pytest.approx(a[0][task], rel=1e-5)
        for one_step, two_steps in zip(a, b, strict=True):
            assert two_steps[task] == pytest.approx(one_step[task], rel=0.01)


@pytest.mark.parametrize("victim", ["child", "parent"])
def test_a_killed_process_ends_the_job_and_it_can_be_resumed(tmp_path, victim):
    process, out = start(tmp_path, "run", "--devices", "2", steps=5000, val_every=2)
    try:
        deadline = time.monotonic() + 120
        while not (out / "last.ckpt").exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        child = int(
            subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()[0]
        )
        os.kill(child if victim == "child" else process.pid, signal.SIGKILL)
        text = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert "lost another process of the job at step" in text
    assert "go on with --resume" in text
    assert "Traceback" not in text
    if victim == "child":
        assert process.returncode == 14
    step = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
    with (out / "log" / "metrics.csv").open() as file:  # no row was lost in a buffer
        assert max(int(row["step"]) for row in csv.DictReader(file)) >= step - 1
    settings = TrainConfig.model_validate(SETTINGS | {"steps": step + 2, "val_every": 2})
    fit(settings, out, resume=True, machine=Machine("cpu"))
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == step + 2


def test_a_job_is_not_killed_before_its_main_process_could_report(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    main = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.wait()
    waited = []
    monkeypatch.setattr(watchdog.time, "sleep", lambda s: waited.append((s, main.poll())))
    watchdog.PatientObserver(main.pid, [child], sleep_period=0).run()
    assert waited == [(0, None), (watchdog.GRACE_SECONDS, None)]  # alive until the grace is over
    assert main.wait(10) == -signal.SIGKILL


def test_a_batch_that_processes_cannot_share(cli, tmp_path):
    options = ("--accelerator", "cpu", "--devices", "2", "--out", "run")
    code, _, err = cli("train", written(tmp_path, batch_size=3), *options)
    assert code == 3
    assert "batch_size 3: expected a multiple of the 2 processes" in err
    assert not (tmp_path / "run").exists()  # before any process is started


def written(folder: Path, **changes) -> Path:
    path = folder / "child.yaml"
    path.write_text(config.dump(TrainConfig.model_validate(SETTINGS | changes)))
    return path


def children() -> list[str]:
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "degmix_training.child"],
        capture_output=True,
        text=True,
    )
    return found.stdout.split()


def test_a_child_of_two_processes_sends_each_event_once(tmp_path):
    events = []
    with listening(events.append):
        machine = Machine("cpu", devices=2)
        fit_in_child(written(tmp_path, steps=4, val_every=2), tmp_path / "run", machine=machine)
    steps = [event for event in events if event.kind == "step" and event.name == "train"]
    assert [event.done for event in steps] == [0, 1, 2, 3, 4]
    assert steps[-1].total == 4
    assert steps[-1].detail.startswith("loss ")
    notes = [event.detail.split("  ")[0] for event in events if event.kind == "note"]
    assert notes == ["step 2/4", "step 4/4"]
    assert [event.name for event in events if event.kind == "finished"] == ["train"]


def test_the_error_of_a_child_is_raised_here(tmp_path):
    lost = {"name": "nyud", "train": None, "val": None}
    with pytest.raises(ConfigError, match="data set 'nyud': needs its folder"):
        fit_in_child(written(tmp_path, data=lost, tasks=["depth"]), tmp_path / "run")
    broken = {**os.environ, "PYTHONHOME": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"ended with code 1\. Its last lines: .*encodings"):
        fit_in_child(written(tmp_path), tmp_path / "run", environment=broken)


def test_a_run_in_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is a file, expected a folder"):
        fit(TrainConfig.model_validate(SETTINGS), tmp_path / "file", machine=Machine("cpu"))


class StopError(Exception):
    pass


def test_a_child_that_is_killed_or_stopped(tmp_path):
    settings = written(tmp_path, steps=100_000, val_every=2)

    def kill(event):
        if event.done == 3:
            os.kill(int(children()[0]), signal.SIGKILL)

    with pytest.raises(TrainingError, match="the training process was killed"):
        fit_in_child(settings, tmp_path / "run", progress=kill)
    assert children() == []

    def stop(event):
        if event.done == 5:
            assert len(children()) == 1
            raise StopError

    with pytest.raises(StopError):
        fit_in_child(settings, tmp_path / "run", resume=True, progress=stop)
    assert children() == []
    step = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 4
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not [name for name in left if ".part" in name]


def test_norms_are_converted_with_their_activations():
    network = nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3), nn.BatchNorm1d(3))
    names = list(network.state_dict())
    converted = sync_batchnorm.convert(network, on_cpu=True)
    assert list(converted.state_dict()) == names
    x = torch.randn(4, 3, 5, 6)
    want = nn.functional.relu(nn.BatchNorm2d(3)(nn.BatchNorm2d(3)(x)))
    torch.testing.assert_close(converted[1](converted[0](x)), want)
    gpu = sync_batchnorm.convert(nn.Sequential(BatchNormAct2d(3), nn.BatchNorm2d(3)), on_cpu=False)
    assert hasattr(gpu[0], "act")
    assert isinstance(gpu[1], nn.SyncBatchNorm)
