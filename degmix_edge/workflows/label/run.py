"""Label whatever images there are, on one machine or on many."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.backends import choose, processors
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.files import remove
from degmix_edge.progress import Event, Progress, emit, listening, note, warn
from degmix_edge.workflows.label.job import (
    ATTEMPTS,
    BAD,
    FORMATS,
    RECEIPTS,
    Format,
    Job,
    begin,
    digest_of,
    remove_parts,
    versions_here,
    write_manifest,
)
from degmix_edge.workflows.label.labeller import check_network
from degmix_edge.workflows.label.on_ray import label_on_ray
from degmix_edge.workflows.label.pieces import PER_SHARD, Piece, find_pieces
from degmix_edge.workflows.label.pool import label_in_pool
from degmix_edge.workflows.label.writing import Receipt
from degmix_edge.workflows.networks import task_names

STAGE = "label"


@dataclass(frozen=True)
class Labels:
    """What a run has written.

    Attributes:
        out: The folder.
        tasks: Tasks whose maps there are.
        shards: How many shards.
        resumed: How many of them an earlier call had finished.
        images: Images that were labelled, in all shards.
        bad: Images that were set aside, in all shards.
        seconds: What this call took.
    """

    out: Path
    tasks: tuple[str, ...]
    shards: int
    resumed: int
    images: int
    bad: int
    seconds: float


def label(
    source: str | Path,
    bundle: str | Path,
    out: str | Path,
    *,
    tasks: str | Sequence[str] = (),
    backend: str = "auto",
    size: tuple[int, int] | None = None,
    threads: int = 1,
    workers: int | None = None,
    address: str | None = None,
    format: Format = "parquet",
    native: bool = False,
    topic: str | None = None,
    per_shard: int = PER_SHARD,
    force: bool = False,
    progress: Progress | None = None,
) -> Labels:
    """Run a bundle over every image of a source, and keep the maps in shards.

    The same call resumes what was stopped. The bytes are those of an uninterrupted run on one
    worker.

    Args:
        source: What `pieces.find_pieces` takes: a folder, a pattern, a file, or a URL of fsspec.
        bundle: The bundle's folder, which every worker must see.
        out: The folder to write into, which every worker must see.
        tasks: Tasks whose maps are kept; none is all that are no raw outputs.
        backend: `auto`, or a backend's name.
        size: Height and width of a bundle that has several sizes; None takes its first.
        threads: CPU threads of each worker.
        workers: How many processes or actors; None takes the processors divided by `threads`.
        address: A Ray cluster: `auto`, `host:port` or `ray://host:port`; `local` starts one here.
            None uses processes of this machine.
        format: `parquet` has the maps in columns, `webdataset` in tar files beside the tables.
        native: Maps at each image's own size instead of the network's.
        topic: The topic with the images, of a recording with several.
        per_shard: Images of a shard, of files of images and of Parquet.
        force: Replace the output of another run.
        progress: Called with an `Event` after each shard.

    Raises:
        ConfigError: The bundle has no such task or size, the network takes more than an image, or
            a number is out of range.
        InputError: There is nothing to label.
        BundleError, BackendError: The bundle cannot be run, or was replaced during the run.
        OutputError: `out` holds the output of another run, or its disk is full.
    """
    with listening(progress):
        count = _workers(workers, threads)
        pieces = find_pieces(str(source), per_shard)
        options: dict[str, Any] = {"tasks": task_names(tasks), "backend": backend, "size": size}
        options |= {"threads": threads, "format": format, "native": native, "topic": topic}
        options |= {"per_shard": per_shard, "plan": digest_of(pieces)}
        job = make_job(str(source), Path(bundle), Path(out), options)
        if begin(job, force=force):
            note(f"{job.out}: has a part of this run", STAGE)
        return _label(job, pieces, count, address)


def _label(job: Job, pieces: Sequence[Piece], workers: int, address: str | None) -> Labels:
    """Label the pieces that are left."""
    start = time.perf_counter()
    done = finished_shards(job, pieces)
    resumed = len(done)
    left = {n: piece for n, piece in enumerate(pieces) if n not in done}
    if left and address is not None:
        receipts = label_on_ray(job, left, workers, address)
    else:
        receipts = label_in_pool(job, left, workers)
    for receipt in _counted(receipts, pieces, done):
        done[receipt.number] = receipt
    finish(job, done)
    images, bad = (sum(getattr(r, name) for r in done.values()) for name in ("images", "bad"))
    if bad:
        warn(f"set aside: {bad} of {images + bad} images, see {job.out}/{BAD}", STAGE)
    seconds = time.perf_counter() - start
    return Labels(Path(job.out), job.tasks, len(pieces), resumed, images, bad, seconds)


def _workers(workers: int | None, threads: int) -> int:
    if threads < 1:
        raise ConfigError(f"threads: got {threads}, expected at least 1")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: got {workers}, expected at least 1")
    return workers or max(1, processors() // threads)


def make_job(source: str, bundle: Path, out: Path, options: Mapping[str, Any]) -> Job:
    """Return the run, once the bundle, the tasks and the backend are known to be there.

    Args:
        source: The source of images.
        bundle: The bundle's folder.
        out: The folder of the output.
        options: The other fields of `Job`, apart from the digest and the versions.

    Raises:
        ConfigError: One of them is none that the bundle has.
        BundleError, BackendError: The bundle or its backend cannot be used.
    """
    if options["format"] not in FORMATS:
        raise ConfigError(f"format: got {options['format']!r}, expected {' or '.join(FORMATS)}")
    opened = open_bundle(bundle)
    network = opened.at(options["size"]).manifest.network
    check_network(network)
    maps = tuple(task.name for task in network.tasks if not task.is_raw)
    tasks = options["tasks"] or maps
    for name in tasks:
        if network.task(name).is_raw:
            raise ConfigError(f"task {name!r}: is a raw output, and label keeps maps")
    backend = choose(options["backend"]).name
    return Job(
        source=source,
        bundle=str(opened.path.absolute()),
        digest=opened.digest,
        out=str(out.absolute()),
        versions=versions_here(backend),
        **{**options, "tasks": tasks, "backend": backend},
    )


def finished_shards(job: Job, pieces: Sequence[Piece]) -> dict[int, Receipt]:
    """Return the receipts of shards whose files are all there with their sizes."""
    done = {}
    for number in range(len(pieces)):
        path = job.path(RECEIPTS, number, ".json")
        try:
            receipt = Receipt(**json.loads(path.read_text()))
            sizes = {n: (Path(job.out) / n).stat().st_size for n in receipt.sizes}
        except FileNotFoundError:
            if path.exists():
                warn(f"shard {number}: a file is missing; it is labelled again", STAGE)
            continue
        except (OSError, ValueError, TypeError) as error:
            warn(f"{path}: cannot be read ({error}); the shard is labelled again", STAGE)
            continue
        if sizes == receipt.sizes:
            done[number] = receipt
            continue
        short = next(name for name, size in receipt.sizes.items() if sizes[name] != size)
        warn(
            f"{short}: has {sizes[short]} bytes, expected {receipt.sizes[short]}; it is labelled "
            "again",
            STAGE,
        )
    return done


def _counted(
    receipts: Iterator[Receipt], pieces: Sequence[Piece], done: Mapping[int, Receipt]
) -> Iterator[Receipt]:
    """Report the progress in images where all of them can be counted, else in shards."""
    known = [piece.images for piece in pieces]
    in_images = all(count is not None for count in known)
    total = float(sum(filter(None, known))) if in_images else float(len(pieces))
    units = sum(r.images + r.bad for r in done.values()) if in_images else len(done)
    begun, images, bad, start = float(units), 0, 0, time.perf_counter()
    current = begun
    emit(Event(STAGE, done=current, total=total))
    for receipt in receipts:
        yield receipt
        images, bad = images + receipt.images, bad + receipt.bad
        current += receipt.images + receipt.bad if in_images else 1
        spent = time.perf_counter() - start
        left_s = spent * (total - current) / max(current - begun, 1e-9)
        detail = f"{images / max(spent, 1e-9):.1f} images/s, {_time(left_s)} left"
        detail += f", {bad} set aside" if bad else ""
        emit(Event(STAGE, done=current, total=total, detail=detail))
    spent = time.perf_counter() - start
    rate = f"{images} images, {images / max(spent, 1e-9):.1f} images/s"
    emit(Event(STAGE, "finished", current, total, detail=rate, seconds=spent))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finish(job: Job, done: Mapping[int, Receipt]) -> None:
    """Write the manifest of a complete output, of which `done` has the receipts by number.

    Raises:
        OutputError: A shard is not there, although every piece was given to a worker.
    """
    shards = [done[number] for number in sorted(done)]
    missing = [r.number for r in shards if not job.path(RECEIPTS, r.number, ".json").is_file()]
    if missing:
        raise OutputError(f"{job.out}: shard {missing[0]} is gone; run the same command again")
    remove_parts(Path(job.out))
    files = {name: digest for receipt in shards for name, digest in receipt.sha256.items()}
    totals = {name: sum(getattr(r, name) for r in shards) for name in ("images", "bad")}
    write_manifest(job, {"complete": True, "shards": len(shards), **totals, "sha256": files})
    for mark in (Path(job.out) / ATTEMPTS).iterdir():
        remove(mark)
    (Path(job.out) / ATTEMPTS).rmdir()
