"""Run independent calls in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from degmix_edge.cluster import cluster, own_error
from degmix_edge.errors import BackendError, ConfigError

T = TypeVar("T")


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
        task = ray.remote(num_cpus=1)(function)
        answers = [task.remote(*call) for call in calls]
        try:
            for answer in answers:
                yield ray.get(answer)
        except Exception as error:  # Ray wraps what a task raises in classes of its own
            raise own_error(error) from error
