"""Label many images on a Ray cluster whose workers and driver are killed; compare with one process.

    python tests/campaigns/label_cluster.py --count 20000 --json label_cluster.json
    python tests/campaigns/label_cluster.py --count 60

It renders the images once, and labels them with one process, with several, and on a cluster of this
machine, undisturbed and with kills. Then it labels 1,000 images in shards of 25 with the process
pool and with Ray, whose difference is Ray's overhead. It prints tables, and exits with 1 if an
image is lost or twice, if a byte differs, or if a figure of 1,000 images or more misses its goal.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pyarrow.parquet as pq

from degmix_edge.capture.synthetic import SyntheticSource
from degmix_edge.workflows.label.job import RECEIPTS, read_manifest

PER_TAR = 250
OVERHEAD = (1000, 25)
"""Images of the runs that show Ray's overhead, and of each of their shards."""
GOALS = {"throughput": 1.8, "overhead": 0.15, "MB an hour": 60.0}
"""The least throughput of two workers, and the most overhead and growth."""
JUDGED = 1000
"""Images from which on a throughput is a figure; below, starts and ends outweigh it."""
SAMPLE_SECONDS = 2.0
"""Between two looks at the memory of the workers: a look takes some milliseconds of a core."""
ACTOR, CHILD = "MapWorker", "spawn_main"
"""How the processes of Ray Data's actors, and those of a process pool, are called."""


@dataclass
class Run:
    """What a run cost.

    Attributes:
        seconds: From the first process to the complete manifest, over all drivers.
        restarts: Drivers beside the first.
        kills: Workers that were killed.
        memory: Seconds and resident bytes of the largest worker.
        receipts: Seconds from the beginning to each receipt, sorted.
        workers: How many there were.
        images: How many images were labelled.
        bad: How many were set aside.
    """

    seconds: float = 0.0
    restarts: int = 0
    kills: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)
    receipts: list[float] = field(default_factory=list)
    workers: int = 1
    images: int = 0
    bad: int = 0

    @property
    def images_per_s(self) -> float:
        """Images in a second, from when every worker has finished a shard to the last receipt."""
        begun = self.receipts[min(self.workers, len(self.receipts)) - 1]
        share = 1 - self.workers / len(self.receipts)
        return self.images * share / max(self.receipts[-1] - begun, 1e-9)

    @property
    def start_s(self) -> float:
        """Seconds until the first worker could begin: the first receipt without its own shard."""
        shard_s = self.images / len(self.receipts) / self.images_per_s * self.workers
        return max(0.0, self.receipts[0] - shard_s)

    @property
    def slope_mb_per_hour(self) -> float:
        """Growth of the largest worker's memory, by a line through the later half of samples.

        It is NaN of a run that was disturbed or that took less than two minutes.
        """
        later = self.memory[len(self.memory) // 2 :]
        if self.seconds < 120 or self.kills or self.restarts:
            return float("nan")
        times, sizes = zip(*later, strict=True)
        return float(np.polyfit(times, sizes, 1)[0] * 3600 / 1e6)

    def values(self) -> dict[str, Any]:
        """Return the run as plain values."""
        names = ("seconds", "restarts", "kills", "workers", "images", "bad", "images_per_s")
        names += ("start_s", "slope_mb_per_hour")
        values = {name: round(float(getattr(self, name)), 3) for name in names}
        return {**values, "largest_mb": max((size for _, size in self.memory), default=0) // 10**6}


def render(folder: Path, count: int, size: tuple[int, int], per_tar: int) -> Path:
    """Write `count` pictures of the synthetic scene into tar files, unless they are there."""
    folder = folder / f"images-{count}-{size[0]}x{size[1]}-{per_tar}"
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
def ray_cluster(num_cpus: int, *options: str) -> Iterator[tuple[str, float]]:
    """Start a cluster in processes of its own; gives its address and the seconds of its start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    command = [*ray, "start", "--head", "--block", f"--port={port}", f"--num-cpus={num_cpus}"]
    command += ["--object-store-memory=300000000"]
    command += ["--include-dashboard=false", "--disable-usage-stats", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Ray 2.59 and later ask for a token. The cluster has one of its own, which drivers inherit.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Ray's client server starts a process for each client. gRPC's handlers of forks can abort it:
    # "Check failed: next_worker->state == KICKED" in ray_client_server.err.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    begun = time.monotonic()
    head = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        status = [*ray, "status", f"--address=127.0.0.1:{port}"]
        while subprocess.run(status, check=False, **quiet).returncode:
            if head.poll() is not None or time.monotonic() - begun > 120:
                raise SystemExit("the cluster does not start; look at /tmp/ray/session_latest/logs")
        yield f"127.0.0.1:{port}", time.monotonic() - begun
    finally:
        own = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        os.killpg(head.pid, signal.SIGTERM)
        for process in psutil.wait_procs(own, timeout=10)[1]:
            with suppress(psutil.Error):
                process.kill()
        head.wait()


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that label: Ray Data's actors, or children of the driver."""
    found = []
    try:
        children = {child.pid for child in psutil.Process(driver.pid).children()}
    except psutil.Error:  # it has just ended
        children = set()
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            is_child = process.pid in children and any(CHILD in part for part in line)
            if ACTOR in " ".join(line[:1]) or is_child:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Driver:
    """Runs the verb to its end, and kills workers and the driver at random moments before that.

    Args:
        arguments: The verb's arguments.
        out: The output.
        kills: How many workers to kill.
        drivers: How often to kill the driver.
    """

    def __init__(self, arguments: list[str], out: Path, kills: int = 0, drivers: int = 0) -> None:
        self.out, self.found, rng = out, Run(), random.Random(0)
        program = "from degmix_edge.cli import main; main()"
        self.command = [sys.executable, "-c", program, *arguments]
        shards = len(list(Path(arguments[1]).glob("*.tar")))
        count = min(kills + drivers, shards - 2)
        self.moments = sorted(rng.sample(range(1, shards - 1), count)) if count > 0 else []
        self.what = (["driver"] * drivers + ["worker"] * kills)[:count]
        rng.shuffle(self.what)
        self.rng = rng

    def run(self) -> Run:
        """Run it, and return what it cost."""
        begun = time.monotonic(), time.time()
        child, sampled = self._start(), 0.0
        while (code := child.poll()) is None:
            spent = time.monotonic() - begun[0]
            if spent - sampled > SAMPLE_SECONDS:
                sampled = spent
                self._sample(spent, workers_of(child))
            if self.moments and len(self._receipts()) >= self.moments[0]:
                child = self._kill(child)
            time.sleep(0.2)
        if code:
            raise SystemExit(f"the driver ended with {code}")
        self.found.seconds = time.monotonic() - begun[0]
        self.found.receipts = sorted(path.stat().st_mtime - begun[1] for path in self._receipts())
        values = read_manifest(self.out) or {}
        self.found.images, self.found.bad = values["images"], values["bad"]
        return self.found

    def _sample(self, spent: float, living: list[psutil.Process]) -> None:
        sizes = []
        for process in living:
            with suppress(psutil.Error):  # it has just ended
                sizes.append(process.memory_info().rss)
        if sizes:
            self.found.memory.append((spent, max(sizes)))

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def _receipts(self) -> list[Path]:
        return list((self.out / RECEIPTS).glob("[!.]*.json"))

    def _kill(self, child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """Kill what is due, and return the driver that runs now."""
        if self.what[-1] == "driver":
            child.kill()
            child.wait()
            self.found.restarts += 1
            child = self._start()
            # Until the next receipt, processes of the driver that was killed may still be there.
            done = len(self._receipts())
            self.moments = [max(moment, done + 1) for moment in self.moments]
        elif living := workers_of(child):
            self.rng.choice(living).kill()
            self.found.kills += 1
        else:  # none has begun again since the last kill
            return child
        self.what.pop()
        self.moments.pop(0)
        return child


def check_output(out: Path, count: int) -> str:
    """Return what is wrong with an output: images lost or twice, files that are not as promised."""
    values = read_manifest(out) or {}
    names = [
        name
        for path in sorted((out / "labels").glob("part-*.parquet"))
        for name in pq.read_table(path, columns=["name"]).column("name").to_pylist()
    ]
    if len(set(names)) != count or len(names) != count:
        return f"{len(names)} rows with {len(set(names))} names, expected {count}"
    for name, digest in values["sha256"].items():
        if hashlib.sha256((out / name).read_bytes()).hexdigest() != digest:
            return f"{name} is not what the manifest says"
    return ""


class Campaign:
    """All runs, one after the other.

    Attributes:
        runs: By name, what each cost.
        problems: What is wrong.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.runs, self.problems = given, dict[str, Run](), list[str]()
        size = tuple(map(int, given.size.split("x")))
        per_tar = given.per_tar or min(PER_TAR, max(1, given.count // 40))
        self.source = render(given.folder, given.count, size, per_tar)
        self.few = render(given.folder, min(given.count, OVERHEAD[0]), size, OVERHEAD[1])
        self.outs: list[Path] = []

    def run(
        self,
        name: str,
        workers: int,
        address: str = "",
        *,
        source: Path | None = None,
        kills: tuple[int, int] = (0, 0),
    ) -> None:
        """Label a source, and check the output against that of one process."""
        out = self.given.folder / f"out-{len(self.outs)}"
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["label", str(source or self.source), "--bundle", self.given.bundle]
        arguments += ["--tasks", "semseg,depth", "--quiet", "--workers", str(workers)]
        arguments += ["--out", str(out), *(["--address", address] if address else [])]
        found = Driver(arguments, out, *kills).run()
        found.workers = workers
        self.runs[name] = found
        self.outs.append(out)
        if source is None:
            if problem := check_output(out, self.given.count):
                self.problems.append(f"{name}: {problem}")
            first = self.outs[0] / "manifest.json"
            if (out / "manifest.json").read_bytes() != first.read_bytes():
                self.problems.append(f"{name}: another output than that of one process")
        print(f"{name}: {found.values()}", flush=True)

    def all(self) -> dict[str, Any]:
        """Run all of them, and return the figures."""
        given, few = self.given, self.few
        several = f"{given.workers} processes"
        self.run("1 process", 1)
        self.run(several, given.workers)
        self.run("1,000 images, pool", given.workers, source=few)
        with ray_cluster(given.workers) as (address, cluster_s):
            self.run("Ray, 1 worker", 1, address)
            self.run("Ray", given.workers, address)
            self.run("Ray, killed", given.workers, address, kills=(given.kills, given.drivers))
            self.run("1,000 images, Ray", given.workers, address, source=few)
        rates = {name: run.images_per_s for name, run in self.runs.items()}
        killed = self.runs["Ray, killed"]
        if (killed.kills, killed.restarts) != (given.kills, given.drivers):
            self.problems.append(f"killed {killed.kills} workers and {killed.restarts} drivers")
        figures = {
            "throughput, processes": rates[several] / rates["1 process"],
            "throughput, Ray against 1 process": rates["Ray"] / rates["1 process"],
            "throughput, Ray against its 1 worker": rates["Ray"] / rates["Ray, 1 worker"],
            "overhead of Ray": rates["1,000 images, pool"] / rates["1,000 images, Ray"] - 1,
            "start of a cluster, s": cluster_s,
            "start of a run, pool, s": self.runs[several].start_s,
            "start of a run, Ray, s": self.runs["Ray"].start_s,
            "memory of a worker, MB an hour": self.runs["Ray"].slope_mb_per_hour,
        }
        self.problems += self._missed(figures) if given.count >= JUDGED else []
        runs = {name: run.values() for name, run in self.runs.items()}
        return {"count": given.count, "runs": runs, "figures": figures, "problems": self.problems}

    def _missed(self, figures: dict[str, float]) -> Iterator[str]:
        for name, value in figures.items():
            if name.startswith("throughput") and self.given.workers == 2:
                if value < GOALS["throughput"]:
                    yield f"{name}: {value:.2f}, expected at least {GOALS['throughput']}"
            for word in ("overhead", "MB an hour"):
                if word in name and value > GOALS[word]:
                    yield f"{name}: {value:.2f}, expected at most {GOALS[word]}"


def main() -> None:
    """Parse the options, run everything, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--size", default="64x96")
    parser.add_argument("--bundle", default="degmix_tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--drivers", type=int, default=2)
    parser.add_argument("--per-tar", type=int, help=f"[default: {PER_TAR}, fewer of few images]")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/label-campaign"))
    parser.add_argument("--json", type=Path, help="write the figures, for scale_measure.py")
    given = parser.parse_args()
    found = Campaign(given).all()
    columns = ("seconds", "start_s", "images_per_s", "kills", "restarts", "images", "bad")
    columns += ("largest_mb", "slope_mb_per_hour")
    print("| run | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, values in found["runs"].items():
        print(f"| {name} | " + " | ".join(f"{values[c]:.6g}" for c in columns) + " |")
    print("\n| figure | value |\n|---|---|")
    for name, value in found["figures"].items():
        print(f"| {name} | {value:.3g} |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n" + ("\n".join(found["problems"]) or "every output is that of one process"))
    sys.exit(bool(found["problems"]))


if __name__ == "__main__":
    main()
