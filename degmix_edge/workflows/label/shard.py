"""Label one piece and write its shard: whole, or not at all.

The receipt is written last. A shard without a receipt was not finished, and is labelled again. The
bytes depend on the run alone, so two workers that label the same piece write the same files.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.connection import Connection

from degmix_edge.errors import BackendError, DegmixError
from degmix_edge.files import remove, write_file
from degmix_edge.workflows.label.job import ATTEMPTS, RECEIPTS, Job
from degmix_edge.workflows.label.labeller import Labelled, Labeller
from degmix_edge.workflows.label.pieces import Piece
from degmix_edge.workflows.label.reading import Item, read_piece
from degmix_edge.workflows.label.writing import Receipt, Writer

DECODED = ("video", "bag")
"""Kinds of pieces whose images are decoded while they are read."""


def label_piece(job: Job, number: int, piece: Piece, labeller: Labeller) -> Receipt:
    """Label a piece and write its shard.

    Where an earlier attempt left no receipt, something may have crashed the process. Then another
    process runs the images one after the other, so that one that crashes it is set aside.

    Raises:
        OutputError: The shard cannot be written.
        DegmixError: Whatever `Labeller` raises.
    """
    attempt = job.path(ATTEMPTS, number, "")
    is_second = attempt.exists()
    write_file(attempt, b"", force=True)
    rows = _guarded(job, piece) if is_second else _labelled(job, piece, labeller)
    with Writer(job, number, labeller.tasks) as writer:
        for row in rows:
            writer.add(row)
    receipt = writer.receipt()
    data = json.dumps(asdict(receipt)).encode()
    write_file(job.path(RECEIPTS, number, ".json"), data, force=True)
    remove(attempt)
    return receipt


def _labelled(job: Job, piece: Piece, labeller: Labeller) -> Iterator[Labelled]:
    items = read_piece(piece, job.topic)
    with _impatient(job):
        while some := [item for _, item in zip(range(labeller.spec.batch), items, strict=False)]:
            for row in labeller.label(some):
                yield row
                _wait_anew(job)


def _guarded(job: Job, piece: Piece) -> Iterator[Labelled]:
    """Give what becomes of each image, run by a child process that may die of any of them."""
    done: set[int] = set()
    deaths: Counter[int] = Counter()
    last = -1
    while True:
        item, place, code = None, max(done, default=-1) + 1, 0
        for place, content in _rows_of_child(job, piece, frozenset(done)):
            if isinstance(content, Item):
                item = content
            elif isinstance(content, Labelled):
                done.add(place)
                yield content
                item = None
                place += 1
            else:
                code = content
        if code == 0:
            return
        deaths[place] += 1
        # An operator or the system may have killed it; what dies of an image dies again.
        if code == -signal.SIGKILL and deaths[place] == 1:
            continue
        reason = f"the process that ran it died ({_signal(code)})"
        if code == -signal.SIGALRM:
            reason = f"it took longer than {job.image_timeout_s:g} s"
        name = f"{piece.name_of(piece.files[0])}#{piece.first + place}"
        bad = item or Item(name, piece.files[0], piece.first + place, None)
        is_stuck = piece.kind in DECODED and last == place - 1 and item is None
        more = "; the rest of the file is left out" if is_stuck else ""
        yield Labelled(replace(bad, image=None), reason=reason + more)
        if is_stuck:
            return
        done.add(place)
        last = place


def _rows_of_child(
    job: Job, piece: Piece, leave: frozenset[int]
) -> Iterator[tuple[int, Item | Labelled | int]]:
    """What a child sends: each item before it runs, then its row; in the end its exit code.

    Raises:
        DegmixError: The child raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, job, piece, leave), daemon=True)
    child.start()
    sender.close()
    place = len(leave)
    try:
        while True:
            try:
                place, content = receiver.recv()
            except EOFError:
                break
            if isinstance(content, DegmixError):
                raise content
            yield place, content
            place += isinstance(content, Labelled)
    finally:
        receiver.close()
        child.join()
    if child.exitcode:
        yield place, child.exitcode


def _child(sender: Connection, job: Job, piece: Piece, leave: frozenset[int]) -> None:
    try:
        with Labeller(job) as labeller, _impatient(job):
            for place, item in enumerate(read_piece(piece, job.topic)):
                _wait_anew(job)
                if place not in leave:
                    sender.send((place, replace(item, image=None)))
                    for row in labeller.label([item]):
                        sender.send((place, row))
    except DegmixError as error:
        sender.send((0, error))
    except Exception as error:  # of no image: a bug, or a package that cannot be imported
        sender.send(
            (0, BackendError(f"label: a guarded run failed: {type(error).__name__}: {error}"))
        )


@contextmanager
def _impatient(job: Job) -> Iterator[None]:
    """End this process with SIGALRM unless `_wait_anew` is called again and again.

    A decoder that hangs does not come back to Python, and no handler of Python's would run.
    """
    _wait_anew(job)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _wait_anew(job: Job) -> None:
    signal.setitimer(signal.ITIMER_REAL, job.image_timeout_s)


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
