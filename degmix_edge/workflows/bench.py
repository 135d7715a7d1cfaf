"""Latency of sessions: percentiles of every part, contestants alternating in one run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from degmix_edge.backends import processors
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.bundle.golden import unpack
from degmix_edge.bundle.manifest import GOLDEN
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.network import IMAGE
from degmix_edge.progress import Progress, counting, listening, warn
from degmix_edge.report.text import TextTable
from degmix_edge.runtime import Latency, Session, load
from degmix_edge.runtime.frames import Frame
from degmix_edge.workflows.reference import reference_session

PERCENTILES = (50, 90, 99)
PARTS = ("pre_ms", "net_ms", "post_ms", "total_ms")
BLOCK = 10
"""Calls in a row before the other contestant's turn."""
SETTLE = 2
"""Calls at the start of a block that do not count: the other's threads are still spinning."""


@dataclass(frozen=True)
class Result:
    """One contestant.

    Attributes:
        name: What tables call it.
        calls: Calls that count.
        percentiles: Milliseconds by part and percentile.
        rounds_ms: Median of the backend's call in each block.
    """

    name: str
    calls: int
    percentiles: dict[str, dict[str, float]]
    rounds_ms: tuple[float, ...] = ()

    @property
    def median_net_ms(self) -> float:
        """Median of one backend call, bytes in to maps out."""
        return self.percentiles["net_ms"]["p50"]

    @property
    def spread(self) -> float:
        """How far rounds are from each other: largest less smallest median, over the smallest."""
        low = min(self.rounds_ms, default=0.0)
        return max(self.rounds_ms) / low - 1 if low else 0.0


def bench_sessions(
    sessions: dict[str, Session],
    images: Sequence[Frame],
    *,
    calls: int = 100,
    warmup: int = 10,
    rate: float | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Result]:
    """Time `calls` calls of each session, in alternating blocks.

    A call has as many images as the network computes at once.

    Args:
        sessions: By name.
        images: Cycled through.
        calls: How many calls count, for each session.
        warmup: Calls before the first that counts.
        rate: Images a second to offer, as a camera does; None is as fast as possible.
        advance: Called after each block with the calls made.

    Raises:
        InputError: There are no images.
        ConfigError: `rate` or `calls` is out of range.
    """
    if not images:
        raise InputError("bench: no images")
    if rate is not None and not 0 < rate < float("inf"):
        raise ConfigError(f"bench: rate {rate}, expected a number of images a second above 0")
    if calls < 1:
        raise ConfigError(f"bench: {calls} calls, expected at least 1")
    for session in sessions.values():
        for index in range(warmup):
            session(_group(session, images, index))
    latencies: dict[str, list[Latency]] = {name: [] for name in sessions}
    while any(len(done) < calls for done in latencies.values()):
        for name, session in sessions.items():
            latencies[name] += _block(session, images, len(latencies[name]), rate)
            advance(BLOCK)
    results = {name: _result(name, done[:calls]) for name, done in latencies.items()}
    _warn_of_slow_calls(results, rate)
    return results


def _block(
    session: Session, images: Sequence[Frame], start: int, rate: float | None
) -> list[Latency]:
    counted = []
    due = time.perf_counter()
    for index in range(SETTLE + BLOCK):
        if rate is not None:
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        session(_group(session, images, start + index))
        if index >= SETTLE and session.latency is not None:
            counted.append(session.latency)
    return counted


def _group(session: Session, images: Sequence[Frame], call: int) -> Frame | list[Frame]:
    """The images of one call, as many as it computes at once."""
    batch = session.spec.batch
    if batch == 1:
        return images[call % len(images)]
    return [images[(call * batch + index) % len(images)] for index in range(batch)]


def _result(name: str, latencies: list[Latency]) -> Result:
    percentiles = {}
    for part in PARTS:
        values = [getattr(latency, part) for latency in latencies]
        found = np.percentile(values, PERCENTILES)
        percentiles[part] = {f"p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)} | {
            "max": max(values)
        }
    net_ms = [latency.net_ms for latency in latencies]
    blocks = [net_ms[start : start + BLOCK] for start in range(0, len(net_ms), BLOCK)]
    rounds_ms = tuple(float(np.median(block)) for block in blocks)
    return Result(name, len(latencies), percentiles, rounds_ms)


def bench(
    bundle: str | Path | Bundle,
    *,
    images: str | Iterable[Frame] = "photos",
    against: Literal["torch", "onnx"] | None = None,
    checkpoint: str | Path | None = None,
    calls: int = 100,
    rate: float | None = None,
    threads: int | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Result]:
    """Time a bundle, and what it was built from in the same run where that is asked for.

    Args:
        bundle: The bundle, or its folder.
        images: Images to cycle through: a source string as `photos` or a folder, or an iterable.
        against: `torch` times PyTorch eager too, and `onnx` the network's own ONNX file in ONNX
            Runtime, in alternating blocks.
        checkpoint: What the bundle was built from; None looks among the shipped ones.
        calls: Calls that count, for each contestant.
        rate: Images a second to offer, as a camera does; None is as fast as possible.
        threads: CPU threads of each contestant. None takes what `load` takes for the bundle, and
            all cores for what it is timed against.
        size: Height and width of a bundle that has several sizes; None takes its first.
        backend: `auto`, or a backend's name.
        progress: Called with an `Event` after each block.

    Returns:
        Results by contestant: `engine int8`, and `PyTorch eager` or `ONNX`.

    Raises:
        BundleError, BackendError: The bundle cannot be opened or run.
        ConfigError: `checkpoint` is not of the kind that `against` says, or the bundle has no such
            size.
        CheckpointError: `checkpoint` is not what the bundle was built from.
        InputError: There are no images.
    """
    opened = (bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))).at(size)
    manifest = opened.manifest
    with ExitStack() as stack:
        stack.enter_context(listening(progress))
        session = load(opened, backend=backend, threads=threads)
        sessions = {f"engine {manifest.precision}": stack.enter_context(session)}
        if against:
            if (against == "onnx") != str(checkpoint).endswith(".onnx"):
                kind = "an .onnx file" if against == "onnx" else "a checkpoint"
                raise ConfigError(f"against {against!r}: got {checkpoint}, expected {kind}")
            reference = stack.enter_context(reference_session(opened, checkpoint, threads))
            sessions["PyTorch eager" if against == "torch" else "ONNX"] = reference
        pictures = frames_of(images, opened)
        advance = stack.enter_context(counting("bench", calls * len(sessions)))
        return bench_sessions(sessions, pictures, calls=calls, rate=rate, advance=advance)


def frames_of(images: str | Iterable[Frame], opened: Bundle) -> list[Frame]:
    """Return what is offered to a bundle: images, or those that a source string names.

    Where there are no photographs, because scikit-image is not installed, it is the golden image.

    Raises:
        InputError: There are no images, or they are not what the network takes.
        ConfigError: `images` names a data set that does not exist.
    """
    if not isinstance(images, str):
        return list(images)
    from degmix_edge.workflows.frame_folders import needed_inputs
    from degmix_edge.workflows.sources import images as read_images

    network, fit = opened.manifest.network, opened.manifest.fit
    is_plain = not network.takes_map and not needed_inputs(network)
    if images == "photos" and is_plain and find_spec("skimage") is None:
        warn(
            f"bench: no photographs without scikit-image; taking the bundle's golden image, whose "
            f"{fit.height}x{fit.width} need no resizing; --data DIR takes images of yours"
        )
        feed, _ = unpack(opened.read(GOLDEN), network, opened.path)
        return [feed[IMAGE][0]]
    return [item.frame for item in read_images(images, fit, network=network)]


def _warn_of_slow_calls(results: dict[str, Result], rate: float | None) -> None:
    """Say plainly that a camera at this rate is faster than the calls: nothing was dropped here."""
    for name, result in results.items():
        call_ms = result.percentiles["total_ms"]["p50"]
        if rate is not None and call_ms > 1000 / rate:
            warn(
                f"{name}: a call takes {call_ms:.1f} ms, and at {rate:g} images a second one comes "
                f"every {1000 / rate:.1f} ms; it reaches {1000 / call_ms:.1f} a second, and a "
                "stream drops the others (--seconds shows that)",
                "bench",
            )


def latency_table(results: Mapping[str, Result], title: str) -> TextTable:
    """One row a contestant and part."""
    rows = [
        [name if part == "pre_ms" else "", part.removesuffix("_ms")]
        + [f"{result.percentiles[part][p]:.2f}" for p in ("p50", "p90", "p99", "max")]
        for name, result in results.items()
        for part in result.percentiles
    ]
    return TextTable(title, ["", "part", "p50 ms", "p90 ms", "p99 ms", "max ms"], rows)


def speedup(results: Mapping[str, Result]) -> float | None:
    """How many times faster than the second contestant a call of the first is; None without one."""
    first, *others = results.values()
    return others[0].median_net_ms / first.median_net_ms if others else None


def machine() -> dict[str, str]:
    """Where and when a figure was measured."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": str(processors()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
