"""Images on their way to being counted, in this process or in others, with bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from degmix_edge.errors import BackendError
from degmix_edge.metrics._boundary_counts import Counts, Settings, count

SMALL = 1 << 20
"""Pixels that may wait for `drain`. For no more than these, `workers=None` starts no process."""
PER_WORKER = 4
"""Images that may wait per worker before `add` blocks."""
_IGNORE_CTRL_C = (signal.SIGINT, signal.SIG_IGN)
"""The workers ignore Ctrl-C: the main process receives it and ends the pool."""


@dataclass
class Image:
    """One image that is to be counted.

    Attributes:
        scores: `(H, W)` uint8 probabilities.
        true: `(H, W)` bool boundary.
        file: Where the cache keeps its counts; None without a cache.
    """

    scores: np.ndarray
    true: np.ndarray
    file: Path | None = None


Finish = Callable[[Image, Counts], object]
"""What to do with an image's counts; called in the main process."""


class CountingQueue:
    """Counts images in the order in which they come; a bounded number of them waits.

    Args:
        settings: Those of `count`.
        workers: Number of processes; None decides by the number of waiting pixels, 1 counts in this
            process.
    """

    def __init__(self, settings: Settings, workers: int | None) -> None:
        self.settings, self.workers = settings, workers
        self.pool: ProcessPoolExecutor | None = None
        self._waiting: deque[Image] = deque()
        self._running: deque[tuple[Image, Future[Counts]]] = deque()

    @property
    def waiting_pixels(self) -> int:
        """Pixels of all images that no process has yet."""
        return sum(image.true.size for image in self._waiting)

    def add(self, image: Image, finish: Finish) -> None:
        """Take one more image, and start counting once enough of them wait.

        Args:
            image: The image.
            finish: Called with every image that was counted meanwhile, which may be none.

        Raises:
            BackendError: A worker process died. No image is lost: `drain` counts them all.
        """
        self._waiting.append(image)
        if self.pool is not None or self._wants_pool():
            self._submit(finish)
        elif self.waiting_pixels > SMALL:
            self._count_here(finish)

    def drain(self, finish: Finish) -> None:
        """Count all images that are left, then end the processes.

        Args:
            finish: Called with each image.

        Raises:
            BackendError: A worker process died.
        """
        while self._waiting or self._running:
            if self.pool is None and not self._wants_pool():
                self._count_here(finish)
            else:
                self._submit(finish)
                self._collect(finish)
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None

    def _wants_pool(self) -> bool:
        """Whether the waiting images are worth other processes."""
        if self.workers is not None:
            return self.workers > 1
        return (os.cpu_count() or 1) > 1 and self.waiting_pixels > SMALL

    def _count_here(self, finish: Finish) -> None:
        image = self._waiting.popleft()
        finish(image, count(image.scores, image.true, self.settings))

    def _submit(self, finish: Finish) -> None:
        """Give all waiting images to the pool; wait for the oldest while it has too many."""
        workers = self.workers or os.cpu_count() or 1
        if self.pool is None:
            # Not fork: torch's threads and CUDA do not survive it.
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context(
                "forkserver" if "forkserver" in methods else "spawn"
            )
            self.pool = ProcessPoolExecutor(workers, context, signal.signal, _IGNORE_CTRL_C)
        while self._waiting:
            if len(self._running) >= PER_WORKER * workers:
                self._collect(finish)
            image = self._waiting.popleft()
            try:
                future = self.pool.submit(count, image.scores, image.true, self.settings)
            except BrokenProcessPool:
                self._waiting.appendleft(image)
                raise self._broken() from None
            self._running.append((image, future))

    def _collect(self, finish: Finish) -> None:
        """Wait for the oldest image in the pool."""
        image, future = self._running[0]
        try:
            counts = future.result()
        except BrokenProcessPool:
            raise self._broken() from None
        except BaseException:
            self._drop()
            raise
        self._running.popleft()
        finish(image, counts)

    def _drop(self) -> None:
        """End the pool; images without counts wait again."""
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
        self.pool = None
        self._waiting.extendleft(image for image, _ in reversed(self._running))
        self._running.clear()

    def _broken(self) -> BackendError:
        self._drop()
        return BackendError(
            "ods_f: a worker process died before it answered, expected it to count one image; call "
            'from a file, under `if __name__ == "__main__":`, look for a lack of memory, or pass '
            "workers=1"
        )
