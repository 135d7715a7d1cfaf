"""Measure what tests/campaigns/scale_plan.py needs, and write it as JSON.

    python tests/campaigns/label_cluster.py --count 20000 --json label_cluster.json
    python tests/campaigns/scale_measure.py --labels /tmp/label-campaign/out-0 \\
        --campaign label_cluster.json --out tests/campaigns/scale_figures.json

Times of images, sizes and shares of bad ones come from an output of `label`. Times of shards, of a
worker's start and of a resume with many shards are measured here, in a folder of /tmp.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow.parquet as pq

from degmix_edge.cluster import cluster
from degmix_edge.workflows.bench import machine
from degmix_edge.workflows.label.job import BAD, LABELS, LATENCY, RECEIPTS, Job, begin, digest_of
from degmix_edge.workflows.label.labeller import Labeller
from degmix_edge.workflows.label.on_ray import mapped
from degmix_edge.workflows.label.pieces import Piece, find_pieces
from degmix_edge.workflows.label.reading import read_piece
from degmix_edge.workflows.label.receipts import READERS, finish, finished_shards
from degmix_edge.workflows.label.run import make_job
from degmix_edge.workflows.label.shard import label_piece

T = TypeVar("T")
QUANTILES = 201
NAMES = ("pre_ms", "net_ms")
IMAGES = 64
"""Images of the shard that is timed."""
R = range(9)
"""Times that a short measurement is repeated."""
LINKS = 60_000
"""Names of one file; some file systems have no more than 65,000."""
START = "import sys; from degmix_edge.workflows.label.job import Job; from degmix_edge.workflows."
START += "label.labeller import Labeller; Labeller(Job.from_json(sys.argv[1]))"


def rounded(value: float) -> float:
    """Return four digits of a number: more would be noise."""
    return float(f"{value:.4g}")


def timed(function: Callable[..., T], *arguments: Any) -> tuple[T, float, float]:
    """Return a function's result, its seconds, and by how many bytes this process grew."""
    gc.collect()
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    return result, seconds, psutil.Process().memory_info().rss - before


def labels_figures(out: Path) -> dict[str, Any]:
    """Return the figures of a finished output of `label`."""
    receipts = [json.loads(path.read_text()) for path in sorted((out / RECEIPTS).glob("*.json"))]
    images, bad = (sum(receipt[name] for receipt in receipts) for name in ("images", "bad"))
    sizes: Counter[str] = Counter()
    for receipt in receipts:
        for name, size in receipt["sizes"].items():
            sizes[name.partition("/")[0]] += size
    parts = [pq.read_table(path) for path in sorted((out / LATENCY).glob("part-*.parquet"))]
    columns = {n: np.concatenate([p.column(n).to_numpy() for p in parts]) for n in NAMES}
    times = sum(columns.values())
    source = Path(json.loads((out / "manifest.json").read_text())["run"]["source"])
    files = [p for p in source.rglob("*") if p.is_file()] if source.is_dir() else [source]
    return {
        "images": images,
        "bad_share": rounded(bad / (images + bad)),
        "bytes_in": rounded(sum(path.stat().st_size for path in files) / (images + bad)),
        "bytes_out": {name: rounded(size / images) for name, size in sizes.items()},
        "image_ms_quantiles": [
            rounded(value) for value in np.quantile(times, np.linspace(0, 1, QUANTILES))
        ],
    }


def a_job(source: Path, bundle: Path, out: Path) -> tuple[Job, list[Piece]]:
    """Return a run whose folders are made, and its pieces."""
    pieces = find_pieces(str(source))
    values = {"tasks": ("semseg", "depth"), "backend": "auto", "size": None, "threads": 1}
    values |= {"format": "parquet", "native": False, "topic": None, "per_shard": 512}
    job = make_job(str(source), bundle, out, {**values, "plan": digest_of(pieces)})
    begin(job, force=False)
    return job, pieces


def shard_figures(tar: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """Return what a shard costs beside its images, and what an image costs.

    Args:
        tar: A file with images, of which small ones are made.
        bundle: The bundle.
        folder: A folder that is removed later.
    """
    (folder / "in").mkdir()
    items = [item for item in read_piece(Piece("tar", (str(tar),), str(tar.parent))) if item.image]
    for number, count in enumerate((0, IMAGES)):
        with tarfile.open(folder / "in" / f"{number}.tar", "w") as archive:
            for index in range(count):
                content = items[index % len(items)].image
                assert isinstance(content, bytes)
                member = tarfile.TarInfo(f"{index:05}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    job, (empty, many) = a_job(folder / "in", bundle, folder / "out")
    with Labeller(job) as labeller:
        label_piece(job, 0, many, labeller)  # warm
        shard_s = float(np.median([timed(label_piece, job, 0, empty, labeller)[1] for _ in R]))
        long = float(np.median([timed(label_piece, job, 1, many, labeller)[1] for _ in R[:5]]))
        job.path("attempts", 1, "").touch()
        guarded = timed(label_piece, job, 1, many, labeller)[1]
        with counted_operations(Path(job.out)) as operations:
            label_piece(job, 0, empty, labeller)
    times = pq.read_table(job.path(LATENCY, 1)).column("net_ms").to_numpy()
    start = timed(lambda: subprocess.run([sys.executable, "-c", START, job.to_json()], check=True))
    return {
        "image_s": rounded((long - shard_s) / IMAGES),
        "shard_s": rounded(shard_s),
        "host_s": rounded((long - shard_s) / IMAGES - float(times.mean()) / 1000),
        "start_s": rounded(start[1]),
        "guarded": rounded(max(1.0, (guarded - start[1]) / long)),
        "shard_ops": sum(operations.values()),
    }


@contextmanager
def counted_operations(folder: Path) -> Iterator[Counter[str]]:
    """Count what this process does to files of a folder: opens, renames, removals and syncs.

    Python reports all but the syncs, and every file is synced before it gets its name.
    """
    counts, is_on = Counter[str](), True

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in ("open", "os.rename", "os.remove", "os.chmod"):
            if str(folder) in str(arguments[0]):
                counts[event] += 1
                counts["sync"] += event == "os.rename"

    sys.addaudithook(hear)
    try:
        yield counts
    finally:
        is_on = False


def many_shards(job: Job, pieces: list[Piece], count: int) -> None:
    """Make `count` finished shards out of the first one, as other names of its files."""
    out = Path(job.out)
    text = job.path(RECEIPTS, 0, ".json").read_text()
    for folder in (LABELS, BAD, LATENCY):
        real = job.path(folder, 0)
        for number in range(2, count):
            if number % LINKS == 0:
                real = Path(shutil.copy(real, job.path(folder, number)))
            else:
                os.link(real, job.path(folder, number))
    for number in range(2, count):
        own = text.replace("part-00000", f"part-{number:05}").replace(
            '"number": 0', f'"number": {number}'
        )
        with open(out / RECEIPTS / f"part-{number:05}.json", "w") as file:
            file.write(own)


def receipt_figures(folder: Path, bundle: Path, count: int) -> dict[str, Any]:
    """Return what a shard costs a driver that resumes, out of many finished ones."""
    job, pieces = a_job(folder / "in", bundle, folder / "out")
    many_shards(job, pieces, count)
    pieces = [pieces[0]] * count
    _, begin_s, _ = timed(lambda: begin(job, force=False))
    done, seconds, memory = timed(finished_shards, job, pieces)
    assert len(done) == count
    _, finish_s, _ = timed(finish, job, done)
    print(f"{count} shards: begin {begin_s:.1f} s, resume {seconds:.1f} s, finish {finish_s:.1f} s")
    manifest = (Path(job.out) / "manifest.json").stat().st_size
    receipt = json.dumps(asdict(done[0]))
    return {
        "count": count,
        "seconds": rounded((begin_s + seconds + finish_s) / count),
        "memory": rounded(memory / count),
        "manifest": rounded(manifest / count),
        "bytes": len(receipt),
        "ops": 3,  # a receipt is opened, read and closed; the sizes come with the listing
        "threads": READERS,
    }


def piece_figures(folder: Path, count: int, ending: str) -> dict[str, Any]:
    """Return what a file of the source costs a driver, out of many empty ones."""
    (folder / ending).mkdir()
    for number in range(count):
        (folder / ending / f"{number:07}.{ending}").touch()
    pieces, seconds, memory = timed(find_pieces, str(folder / ending))
    _, digest_s, _ = timed(digest_of, pieces)
    per = {"seconds": rounded((seconds + digest_s) / count), "memory": rounded(memory / count)}
    return {"count": count, **per}


class Nothing:
    """An actor that answers at once, so that what is left is Ray's own work."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return as much as a receipt is."""
        texts = np.array([self.text] * len(batch["number"]), object)
        return {"error": np.array([""] * len(texts), object), "text": texts}


def ray_figures(piece: Piece, receipt_bytes: int, count: int) -> dict[str, Any]:
    """Return what a shard costs the driver that gives it to actors of Ray Data."""

    def drive(number: int) -> float:
        """Return the seconds from the first answer to the last one."""
        rows = [{"number": n, "piece": piece.to_json()} for n in range(number)]
        answers = mapped(ray, Nothing, "x" * receipt_bytes, rows, workers=2)
        next(answers)
        start = time.perf_counter()
        assert sum(1 for _ in answers) == number - 1
        return time.perf_counter() - start

    start = time.perf_counter()
    with cluster("local", 2) as ray:
        begun = time.perf_counter() - start
        drive(count // 4)  # warm
        seconds, _, memory = timed(drive, count)
    return {
        "count": count,
        "start_s": rounded(begun),
        "block_s": rounded(seconds / (count - 1)),
        "block_bytes": rounded(max(0, memory) / count),
    }


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True, help="an output of `label`")
    parser.add_argument("--campaign", type=Path, help="what label_cluster.py --json wrote")
    parser.add_argument("--bundle", type=Path, default=Path("degmix_tiny"))
    parser.add_argument("--shards", type=int, default=100_000, help="of the resume")
    parser.add_argument("--blocks", type=int, default=1600, help="of Ray Data")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    where = machine()
    found: dict[str, Any] = {"machine": f"{where['cpu']}, {where['cores']} cores, {where['date']}"}
    found |= labels_figures(given.labels)
    source = Path(json.loads((given.labels / "manifest.json").read_text())["run"]["source"])
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        found |= shard_figures(sorted(source.glob("*.tar"))[0], given.bundle, folder)
        found["receipt"] = receipt_figures(folder, given.bundle, given.shards)
        found["piece"] = piece_figures(folder, given.shards, "tar")
        found["file"] = piece_figures(folder, given.shards, "png")
        piece = Piece("tar", (str(source / "00000.tar"),), str(source))
        found["ray"] = ray_figures(piece, found["receipt"]["bytes"], given.blocks)
    if given.campaign:
        campaign = json.loads(given.campaign.read_text())
        alone = campaign["runs"]["1 process"]
        shards = len(list((given.labels / RECEIPTS).iterdir()))
        per_shard = found["images"] / shards
        found["image_s"] = rounded(1 / alone["images_per_s"] - found["shard_s"] / per_shard)
        found["campaign"] = campaign
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{given.out}: {json.dumps({k: v for k, v in found.items() if 'quantiles' not in k})}")


if __name__ == "__main__":
    main()
