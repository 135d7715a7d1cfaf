"""Label whatever images there are, on one machine or on many."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.backends import choose, processors
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.progress import Event, Progress, emit, listening, note, warn
from degmix_edge.report.text import Readable
from degmix_edge.workflows.label.job import (
    BAD,
    FORMATS,
    IMAGE_TIMEOUT_S,
    STAGE,
    Format,
    Job,
    begin,
    digest_of,
    versions_here,
)
from degmix_edge.workflows.label.labeller import check_network
from degmix_edge.workflows.label.on_ray import label_on_ray
from degmix_edge.workflows.label.pieces import PER_SHARD, Piece, find_pieces
from degmix_edge.workflows.label.pool import label_in_pool
from degmix_edge.workflows.label.receipts import finish, finished_shards
from degmix_edge.workflows.label.writing import Receipt, count_reasons
from degmix_edge.workflows.networks import task_names


@dataclass(frozen=True)
class Labels(Readable):
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

    def text(self) -> Iterator[str]:
        """Yield what there is."""
        yield (
            f"{self.out}: {self.images} images, {self.bad} set aside, shards: {self.shards}, "
            f"{self.seconds:.1f} s"
        )


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
    image_timeout_s: float = IMAGE_TIMEOUT_S,
    force: bool = False,
    progress: Progress | None = None,
) -> Labels:
    """Run a bundle over every image of a source, and keep the maps in shards.

    The same call resumes what was stopped, and gives the bytes of an uninterrupted run.

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
        image_timeout_s: Seconds after which an image is set aside; 0 waits for ever.
        force: Replace the output of another run.
        progress: Called with an `Event` after each shard.

    Raises:
        ConfigError: The bundle has no such task or size, the network takes more than an image, or
            a number is out of range.
        InputError: There is nothing to label, or every image was set aside.
        BundleError, BackendError: The bundle cannot be run, or was replaced during the run.
        OutputError: `out` holds the output of another run, or its disk is full.
    """
    with listening(progress):
        count = _workers(workers, threads)
        pieces = find_pieces(str(source), per_shard)
        options: dict[str, Any] = {"tasks": task_names(tasks), "backend": backend, "size": size}
        options |= {"threads": threads, "format": format, "native": native, "topic": topic}
        options |= {"per_shard": per_shard, "image_timeout_s": image_timeout_s}
        options["plan"] = digest_of(pieces)
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
    if not images:
        raise InputError(_nothing_labelled(job, len(pieces), bad))
    if bad:
        warn(f"set aside: {bad} of {images + bad} images, see {job.out}/{BAD}", STAGE)
    seconds = time.perf_counter() - start
    return Labels(Path(job.out), job.tasks, len(pieces), resumed, images, bad, seconds)


def _nothing_labelled(job: Job, shards: int, bad: int) -> str:
    if not bad:
        return f"{job.source}: there is no image in it, although it became {shards} shards"
    reason, count = count_reasons(job, shards).most_common(1)[0]
    return (
        f"{job.source}: all of its {bad} images were set aside, {count} of them because: {reason}. "
        f"{job.out}/{BAD} has a reason for each"
    )


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
    if not 0 <= options.get("image_timeout_s", IMAGE_TIMEOUT_S) < math.inf:
        raise ConfigError(f"image_timeout_s: got {options['image_timeout_s']}, expected 0 or more")
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
