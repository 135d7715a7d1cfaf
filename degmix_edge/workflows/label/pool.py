"""Label pieces with processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from degmix_edge.errors import BackendError
from degmix_edge.progress import warn
from degmix_edge.workflows.label.job import Job
from degmix_edge.workflows.label.labeller import Labeller
from degmix_edge.workflows.label.pieces import Piece
from degmix_edge.workflows.label.shard import label_piece
from degmix_edge.workflows.label.writing import Receipt

AHEAD = 2
"""Pieces that a worker may have in hand: one that runs, and the next."""
_labeller: Labeller | None = None
"""The labeller of a worker process, which it makes for its first piece."""


def label_in_pool(job: Job, pieces: Mapping[int, Piece], workers: int) -> Iterator[Receipt]:
    """Label pieces in `workers` processes, and give a receipt for each as it is finished.

    A worker that dies ends all of them. Then the pieces that are left run in new processes, as
    long as some piece was finished or begun anew in between.

    Raises:
        BackendError: Workers die without finishing anything.
        DegmixError: Whatever `label_piece` raises.
    """
    left = dict(pieces)
    barren = 0
    while left:
        before = len(left)
        try:
            for receipt in _one_pool(job, left, workers):
                del left[receipt.number]
                yield receipt
        except BrokenProcessPool:
            # The first death leaves marks, by which the next processes run those pieces guarded.
            barren = barren + 1 if len(left) == before else 0
            if barren > 1:
                raise BackendError(
                    f"label: a worker died twice without finishing a shard, with {len(left)} left; "
                    "look for a lack of memory, and give fewer --workers. The same command resumes"
                ) from None
            warn(f"a worker died; {len(left)} shards are left, and new workers go on with them")


def _one_pool(job: Job, pieces: Mapping[int, Piece], workers: int) -> Iterator[Receipt]:
    # Not fork: threads of libraries do not survive it.
    context = multiprocessing.get_context("spawn")
    waiting = iter(dict(pieces).items())
    running: set[Future[Receipt]] = set()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(pieces)), context, signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        while True:
            while len(running) < AHEAD * workers and (piece := next(waiting, None)):
                running.add(pool.submit(_label, job, *piece))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BaseException:
        # After Ctrl-C or an error nobody waits for the shards that run: the next call does them.
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _label(job: Job, number: int, piece: Piece) -> Receipt:
    global _labeller
    if _labeller is None:
        _labeller = Labeller(job)
    return label_piece(job, number, piece, _labeller)
