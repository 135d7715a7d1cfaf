"""The receipts of an output: which shards are finished, and the manifest once all are."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from degmix_edge.errors import OutputError
from degmix_edge.files import remove
from degmix_edge.progress import warn
from degmix_edge.workflows.label.job import (
    ATTEMPTS,
    BAD,
    LABELS,
    LATENCY,
    MAPS,
    RECEIPTS,
    STAGE,
    Job,
    remove_parts,
    write_manifest,
)
from degmix_edge.workflows.label.pieces import Piece
from degmix_edge.workflows.label.writing import Receipt

READERS = 16
"""Threads that read receipts."""
CHUNK = 500
"""Receipts that a thread reads at once."""


def finished_shards(job: Job, pieces: Sequence[Piece]) -> dict[int, Receipt]:
    """Return the receipts of shards whose files are all there with their sizes.

    Folders are listed and receipts are read by several threads, because a shared disk may take a
    millisecond for each file.
    """
    sizes = _sizes_of_files(job)
    numbers = [n for n in range(len(pieces)) if _below(job, RECEIPTS, n, ".json") in sizes]
    chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
    done = {}
    with ThreadPoolExecutor(READERS) as pool:
        for chunk in pool.map(lambda some: [_receipt(job, number) for number in some], chunks):
            for receipt in chunk:
                problem = _problem(receipt, sizes)
                if problem:
                    warn(f"{problem}; the shard is labelled again", STAGE)
                elif isinstance(receipt, Receipt):
                    done[receipt.number] = receipt
    return done


def _below(job: Job, folder: str, number: int, ending: str) -> str:
    return f"{folder}/{job.path(folder, number, ending).name}"


def _sizes_of_files(job: Job) -> dict[str, int]:
    """The sizes of all files in the output's folders, by their path below the output."""
    found: dict[str, int] = {}
    for folder in (LABELS, BAD, LATENCY, MAPS, RECEIPTS):
        with contextlib.suppress(FileNotFoundError), os.scandir(Path(job.out) / folder) as entries:
            found |= {f"{folder}/{entry.name}": entry.stat().st_size for entry in entries}
    return found


def _receipt(job: Job, number: int) -> Receipt | str:
    """The receipt of a shard, or why it cannot be read."""
    path = job.path(RECEIPTS, number, ".json")
    try:
        return Receipt(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        return f"{path}: cannot be read ({error})"


def _problem(receipt: Receipt | str, sizes: Mapping[str, int]) -> str:
    """What is wrong with a receipt or with the files of its shard; empty where nothing is."""
    if isinstance(receipt, str):
        return receipt
    for name, size in receipt.sizes.items():
        if name not in sizes:
            return f"{name}: is missing"
        if sizes[name] != size:
            return f"{name}: has {sizes[name]} bytes, expected {size}"
    return ""


def finish(job: Job, done: Mapping[int, Receipt]) -> None:
    """Write the manifest of a complete output, of which `done` has the receipts by number.

    Raises:
        OutputError: A shard is not there, although every piece was given to a worker.
    """
    shards = [done[number] for number in sorted(done)]
    there = set(os.listdir(Path(job.out) / RECEIPTS))
    missing = [r.number for r in shards if job.path(RECEIPTS, r.number, ".json").name not in there]
    if missing:
        raise OutputError(f"{job.out}: shard {missing[0]} is gone; run the same command again")
    remove_parts(Path(job.out))
    files = {name: digest for receipt in shards for name, digest in receipt.sha256.items()}
    totals = {name: sum(getattr(r, name) for r in shards) for name in ("images", "bad")}
    write_manifest(job, {"complete": True, "shards": len(shards), **totals, "sha256": files})
    for mark in (Path(job.out) / ATTEMPTS).iterdir():
        remove(mark)
    (Path(job.out) / ATTEMPTS).rmdir()
