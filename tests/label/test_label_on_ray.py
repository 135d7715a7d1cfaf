"""`label` on a Ray cluster of this machine, with a worker that is killed."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from test_label import BUNDLE, EACH, TARS, here, same_bytes, small_disk, write_tar

pytest.importorskip("ray")
sys.path.insert(0, str(Path(__file__).parents[1] / "campaigns"))

from label_cluster import ray_cluster  # noqa: E402

from degmix_edge.errors import BackendError, OutputError  # noqa: E402
from degmix_edge.progress import Event  # noqa: E402
from degmix_edge.workflows.label import label  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow(file_seconds=30)]


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    for number in range(TARS):
        write_tar(folder / f"{number:03}.tar", range(EACH * number, EACH * (number + 1)))
    return folder


def kill_one_worker(out: Path, killed: list[int]) -> None:
    """Kill an actor of Ray Data once the first shard is there."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if list((out / "receipts").glob("*.json")):
            for child in psutil.Process().children(recursive=True):
                if "MapWorker" in " ".join(child.cmdline()[:1]):
                    child.kill()
                    killed.append(child.pid)
                    return
        time.sleep(0.02)


def test_a_cluster_writes_the_same_bytes_although_a_worker_is_killed(tars, tmp_path):
    here(tars, tmp_path / "serial")
    out, killed = tmp_path / "out", []
    killer = threading.Thread(target=kill_one_worker, args=(out, killed), daemon=True)
    killer.start()
    found = label(tars, BUNDLE, out, workers=2, tasks="semseg,depth", address="local")
    killer.join(10)
    assert killed
    assert (found.shards, found.images, found.bad) == (TARS, TARS * EACH, 0)
    same_bytes(tmp_path / "serial", out)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_rays_client_writes_the_same_bytes(tars, tmp_path, monkeypatch):
    # The cluster's, until the test ends.
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "GRPC_ENABLE_FORK_SUPPORT"):
        monkeypatch.setenv(name, "token")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here(tars, tmp_path / "serial")
    out = tmp_path / "out"
    verb = [sys.executable, "-m", "degmix_edge", "label", tars, "--bundle", BUNDLE, "--out", out]
    verb += ["--workers", "2", "--tasks", "semseg,depth", "--json"]
    with ray_cluster(2, f"--ray-client-server-port={port}"):
        deadline = time.monotonic() + 60
        while not answers(port):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        verb += ["--address", f"ray://127.0.0.1:{port}"]
        child = subprocess.run(verb, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout)["images"] == TARS * EACH
    same_bytes(tmp_path / "serial", out)


def test_a_full_disk_in_a_worker_ends_the_run(tars, tmp_path):
    with (
        small_disk(tmp_path / "small") as out,
        pytest.raises(OutputError, match=r"the disk is full|free some space"),
    ):
        label(tars, BUNDLE, out, workers=1, tasks="semseg,depth", address="local")


WITHOUT_BACKEND = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name == "onnxruntime" else find(name, *more)
"""


def test_another_machine_is_refused_before_work(tars, tmp_path, monkeypatch):
    """The workers find another numpy's metadata first, and have no ONNX Runtime."""
    import ray

    info = tmp_path / "site" / "numpy-0.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.9\n")
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_BACKEND)
    real = ray.init
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    env = {"env_vars": {"PYTHONPATH": path}}
    monkeypatch.setattr(ray, "init", lambda **more: real(runtime_env=env, **more))
    events: list[Event] = []
    text = r"numpy 0\.9, here [\d.]+, onnxruntime -, here [\d.]+, .*onnxruntime"
    with pytest.raises(BackendError, match=text):
        label(tars, BUNDLE, tmp_path / "out", address="local", progress=events.append)
    assert [event.detail for event in events if event.kind == "table"] == [
        "machines of the cluster"
    ]
    assert not list((tmp_path / "out" / "labels").iterdir())
