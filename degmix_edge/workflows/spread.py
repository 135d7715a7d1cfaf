"""Run independent calls in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from degmix_edge.cluster import cluster, own_error
from degmix_edge.errors import BackendError, ConfigError
from degmix_edge.progress import counting

PART = 128
"""Images of a part at most; smaller parts keep the progress going."""
T = TypeVar("T")


class Merges(Protocol):
    """Counts of some images, to which those of the next images can be appended."""

    def merge(self, other: Any) -> None:
        """Append counts of the same kind."""


M = TypeVar("M", bound=Merges)


def count_in_parts(
    function: Callable[..., M],
    arguments: tuple[Any, ...],
    total: int,
    *,
    stage: str,
    batch: int = 1,
    workers: int = 1,
    address: str | None = None,
) -> M:
    """Return the counts of all images of a data set, which other processes count in parts.

    Parts are merged in the order of their images. So the result does not depend on which process
    counted which part, nor on how many there were.

    Args:
        function: A function of a module. It takes `arguments`, the position of a part's first
            image, the position behind its last one, and the threads that it may use, where 0 leaves
            them as they are.
        arguments: What all parts share, which can be pickled.
        total: How many images there are, at least 1.
        stage: What the progress calls this.
        batch: Images that run together; parts begin at its multiples. It divides `PART`.
        workers: As `spread` takes it.
        address: As `spread` takes it.

    Raises:
        DegmixError: What `spread` raises.
    """
    each = -(-total // max(1, workers))
    step = min(PART, -(-each // batch) * batch)
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0
    bounds = [(start, min(start + step, total)) for start in range(0, total, step)]
    calls = [(*arguments, *part, threads) for part in bounds]
    whole: M | None = None
    with counting(stage, total) as advance:
        results = spread(function, calls, workers=workers, address=address)
        for (start, stop), counts in zip(bounds, results, strict=True):
            if whole is None:
                whole = counts
            else:
                whole.merge(counts)
            advance(stop - start)
    assert whole is not None  # there is at least one image
    return whole


def spread(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    *,
    workers: int = 1,
    address: str | None = None,
) -> Iterator[T]:
    """Give the results of calls in their order, as they would be without other processes.

    Args:
        function: A function of a module, which other processes can import.
        calls: The arguments of each call, which can be pickled.
        workers: Processes of this machine, or processors of a cluster that is started here; with 1
            and without an address the calls run in this process.
        address: A Ray cluster, as `label` takes it; None uses no Ray.

    Raises:
        ConfigError: `workers` is below 1, or nothing answers at the address.
        BackendError: A worker died.
        DegmixError: Whatever the function raises.
    """
    if workers < 1:
        raise ConfigError(f"workers: got {workers}, expected at least 1")
    if address is not None:
        yield from _on_ray(function, calls, workers, address)
    elif workers == 1 or len(calls) < 2:
        yield from (function(*call) for call in calls)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(calls)), context) as pool:
            futures = [pool.submit(function, *call) for call in calls]
            try:
                yield from (future.result() for future in futures)
            except BrokenProcessPool:
                raise BackendError(
                    "a worker died before it answered; look for a lack of memory, and give fewer "
                    "--workers"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


def _on_ray(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int, address: str
) -> Iterator[T]:
    with cluster(address, workers) as ray:
        task = ray.remote(num_cpus=1)(_in_folder)
        answers = [task.remote(os.getcwd(), function, *call) for call in calls]
        try:
            for answer in answers:
                yield ray.get(answer)
        except Exception as error:  # Ray wraps what a task raises in classes of its own
            raise own_error(error) from error


def _in_folder(folder: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function where relative paths are those of the process that asked for it."""
    if os.path.isdir(folder):
        os.chdir(folder)
    return function(*arguments)
