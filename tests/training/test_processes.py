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
from degmix_training import processes, sync_batchnorm
from degmix_training.config import TrainConfig
from timm.layers import BatchNormAct2d
from torch import nn

from degmix_edge import config

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
    one, alone = start(tmp_path, "one")
    assert one.wait(120) == 0, one.stdout.read()
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
    more, _ = start(tmp_path, "run", "--resume", steps=step + 2, val_every=2)
    assert more.wait(120) == 0, more.stdout.read()
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == step + 2


def test_a_job_is_not_killed_before_its_main_process_could_report(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    main = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.wait()
    waited = []
    monkeypatch.setattr(processes.time, "sleep", lambda s: waited.append((s, main.poll())))
    processes.PatientObserver(main.pid, [child], sleep_period=0).run()
    assert waited == [(0, None), (processes.GRACE_SECONDS, None)]  # alive until the grace is over
    assert main.wait(10) == -signal.SIGKILL


def test_a_batch_that_processes_cannot_share(tmp_path):
    process, _ = start(tmp_path, "odd", "--devices", "2", batch_size=3)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 3
    assert "batch_size 3: expected a multiple of the 2 processes" in text


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
