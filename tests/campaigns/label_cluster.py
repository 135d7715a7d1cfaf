"""Label many images on a Ray cluster whose workers and driver are killed; compare with one process.

    python tests/campaigns/label_cluster.py --count 20000 --kills 5 --drivers 2

It renders the images once, labels them with one process, with as many processes as the cluster has
workers, and on a cluster of this machine. It prints a table, and exits with 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import psutil

from degmix_edge.capture.synthetic import SyntheticSource
from degmix_edge.workflows.label.job import RECEIPTS, read_manifest

PER_TAR = 250
ACTOR = "MapWorker"
"""What Ray calls the processes of Ray Data's actors."""


@dataclass
class Run:
    """What a run cost.

    Attributes:
        seconds: From the first process to the complete manifest, over all drivers.
        label_s: From the first to the last receipt.
        restarts: Drivers beside the first.
        kills: Workers that were killed.
        memory: Seconds and resident bytes of the largest worker.
    """

    seconds: float = 0.0
    label_s: float = 0.0
    restarts: int = 0
    kills: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)

    @property
    def slope_mb_per_hour(self) -> float:
        """Growth of the largest worker's memory, by a line through the later half of samples."""
        later = self.memory[len(self.memory) // 2 :]
        if len(later) < 3:
            return float("nan")
        times, sizes = zip(*later, strict=True)
        return float(np.polyfit(times, sizes, 1)[0] * 3600 / 1e6)


def render(folder: Path, count: int, size: tuple[int, int], per_tar: int = PER_TAR) -> Path:
    """Write `count` pictures of the synthetic scene into tar files, unless they are there."""
    folder = folder / f"images-{count}-{size[0]}x{size[1]}"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    source, stop = SyntheticSource(size, 30.0, is_live=False), threading.Event()
    source.open()
    for start in range(0, count, per_tar):
        with tarfile.open(folder / f"{start // per_tar:05}.tar", "w") as archive:
            for number in range(start, min(start + per_tar, count)):
                frame = source.read(stop)
                assert frame is not None
                buffer = io.BytesIO()
                PIL.Image.fromarray(frame.image).save(buffer, "PNG")
                member = tarfile.TarInfo(f"{number:08}.png")
                member.size = len(buffer.getvalue())
                archive.addfile(member, io.BytesIO(buffer.getvalue()))
    (folder / "done").write_text("")
    return folder


@contextmanager
def ray_cluster(num_cpus: int) -> Iterator[str]:
    """Start a cluster in processes of its own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", f"--num-cpus={num_cpus}", "--object-store-memory=300000000"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(3)  # its first machine joins after the port is open
        yield f"127.0.0.1:{port}"
    finally:
        children = psutil.Process(head.pid).children(recursive=True)
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(30)
        for child in children:
            if child.is_running():
                child.kill()


def actors() -> list[psutil.Process]:
    """Processes of Ray Data's actors that belong to this user."""
    found = []
    for process in psutil.process_iter():
        try:
            if ACTOR in " ".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:
            continue
    return found


def run(arguments: list[str], out: Path, kills: int = 0, drivers: int = 0, seed: int = 0) -> Run:
    """Run the verb to its end, and kill workers and the driver at random moments before that.

    Args:
        arguments: Of the verb.
        out: The output.
        kills: How many workers to kill.
        drivers: How often to kill the driver.
        seed: Of the moments.
    """
    rng, found = random.Random(seed), Run()
    shards = len(list(Path(arguments[1]).glob("*.tar")))
    moments = sorted(rng.sample(range(1, max(kills + drivers + 1, shards - 1)), kills + drivers))
    what = ["worker"] * kills + ["driver"] * drivers
    rng.shuffle(what)
    program = "from degmix_edge.cli import main; main()"
    start = time.monotonic()
    first = None
    child = subprocess.Popen([sys.executable, "-c", program, *arguments])
    while True:
        code = child.poll()
        done = len(list((out / RECEIPTS).glob("*.json"))) if out.exists() else 0
        if done and first is None:
            first = time.monotonic()
        if code is not None:
            if code != 0 and (read_manifest(out) or {}).get("complete") is not True:
                if not found.restarts or found.restarts > 2 * drivers + 1:
                    raise SystemExit(f"the driver ended with {code}")
            else:
                break
        living = actors()
        sizes = [process.memory_info().rss for process in living if process.is_running()]
        if sizes:
            found.memory.append((time.monotonic() - start, max(sizes)))
        if moments and done >= moments[0]:
            moments.pop(0)
            if what.pop() == "driver":
                child.kill()
                child.wait()
                found.restarts += 1
                child = subprocess.Popen([sys.executable, "-c", program, *arguments])
            elif living:
                rng.choice(living).kill()
                found.kills += 1
            else:
                moments.insert(0, done + 1)
                what.append("worker")
        time.sleep(0.2)
    found.seconds = time.monotonic() - start
    found.label_s = time.monotonic() - (first or start)
    return found


def main() -> None:
    """Parse the options, run everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--size", default="64x96")
    parser.add_argument("--bundle", default="degmix_edge/ready/degmix_tiny.degmix")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--drivers", type=int, default=2)
    parser.add_argument("--per-tar", type=int, default=PER_TAR)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/label-campaign"))
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    source = render(given.folder, given.count, (height, width), given.per_tar)
    common = ["label", str(source), "--bundle", given.bundle, "--tasks", "semseg,depth", "--quiet"]
    rows, manifests = [], {}
    with ray_cluster(given.workers) as address:
        for name, options, kills, drivers in (
            ("1 process", ["--workers", "1"], 0, 0),
            (f"{given.workers} processes", ["--workers", str(given.workers)], 0, 0),
            ("Ray", ["--workers", str(given.workers), "--address", address], 0, 0),
            (
                "Ray, killed",
                ["--workers", str(given.workers), "--address", address],
                given.kills,
                given.drivers,
            ),
        ):
            out = given.folder / f"out-{len(rows)}"
            subprocess.run(["rm", "-rf", str(out)], check=True)
            cost = run([*common, "--out", str(out), *options], out, kills, drivers)
            manifests[name] = (out / "manifest.json").read_bytes()
            values = json.loads(manifests[name])
            rows.append((name, cost, values["images"], values["bad"]))
    print("run | s | images/s | kills | drivers | images | bad | MB/h | equal")
    for name, cost, images, bad in rows:
        equal = manifests[name] == manifests["1 process"]
        print(
            f"{name} | {cost.seconds:.1f} | {images / cost.seconds:.1f} | {cost.kills} | "
            f"{cost.restarts} | {images} | {bad} | {cost.slope_mb_per_hour:+.0f} | {equal}"
        )
    if len(set(manifests.values())) > 1 or any(row[2] != given.count for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
