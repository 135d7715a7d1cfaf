"""Compare an engine with the network that it was built from; the worst task decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.metrics import Metric
from degmix_edge.progress import Progress, counting, listening
from degmix_edge.runtime import load
from degmix_edge.workflows.compare_parts import (
    ComparisonPart,
    count_apart,
    count_here,
    open_comparison,
)
from degmix_edge.workflows.compare_report import ComparePage
from degmix_edge.workflows.comparison import (
    Comparison,
    check_limits,
    conclude,
    tensor_differences,
)
from degmix_edge.workflows.recorded import save_results
from degmix_edge.workflows.sliced import Cut, parse_slices
from degmix_edge.workflows.sources import images

if TYPE_CHECKING:
    from torch import nn

DATA = "synthetic:64"
MAX_DROP = 0.02
MAX_DISAGREEMENT = 0.10
TENSOR_IMAGES = 4
"""Tensors are compared on this many images: four show what a hundred would."""


def compare(
    bundle: str | Path | Bundle,
    checkpoint: str | Path | nn.Module | None = None,
    *,
    data: str = DATA,
    backend: str = "auto",
    max_drop: float = MAX_DROP,
    max_disagreement: float = MAX_DISAGREEMENT,
    metrics: Mapping[str, type[Metric]] | None = None,
    label_map: str | Path | None = None,
    slices: str | Sequence[str] = (),
    bootstrap: int = 0,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    workers: int = 1,
    address: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a bundle's engine with PyTorch FP32 on labelled images.

    >>> compare("robot.degmix", data="nyud:NYUDv2").tasks["depth"].drop

    Args:
        bundle: The bundle, or its folder.
        checkpoint: What it was built from: a checkpoint, an ONNX file, a torch module, or its maker
            `FILE.py:NAME`; None looks among the shipped checkpoints.
        data: A labelled data set (`nyud:DIR`, `synthetic:64`), a folder of images, or `photos`.
        backend: `auto`, or a backend's name.
        max_drop: With labels, how much worse a task may be, as a fraction of the network's value.
        max_disagreement: Without labels, the fraction that a task's map may differ.
        metrics: By task, metrics in place of the tasks' own.
        label_map: The classes of the ids in the label files of `folder:DIR`, as in `evaluate`.
        slices: Parts to score apart, as in `evaluate`.
        bootstrap: Sets of images that are drawn for the intervals of 95 %; 0 gives none.
        size: Height and width of a bundle that has several sizes; None takes its first.
        threads: CPU threads; None takes what `load` takes, which several processes share.
        workers: Processes that compare, as in `evaluate`.
        address: A Ray cluster that compares, as in `evaluate`.
        progress: Called with an `Event` after each image.

    Returns:
        The comparison; `passed` says whether every task is inside its tolerance.

    Raises:
        BundleError, BackendError: The bundle cannot be opened or run.
        CheckpointError: `checkpoint` is not what the bundle was built from.
        ConfigError, InputError: `data` cannot be read.
    """
    more: dict[str, Any] = {"metrics": metrics, "label_map": label_map, "size": size}
    more |= {"slices": slices, "bootstrap": bootstrap, "threads": threads, "progress": progress}
    more |= {"max_drop": max_drop, "max_disagreement": max_disagreement, "data": data}
    compared = compare_engines(
        bundle, checkpoint, backends=(backend,), workers=workers, address=address, **more
    )
    return next(iter(compared.values()))


def compare_engines(
    bundle: str | Path | Bundle,
    checkpoint: str | Path | nn.Module | None = None,
    *,
    data: str = DATA,
    backends: tuple[str, ...] = ("auto",),
    results: Path | None = None,
    report: Path | None = None,
    max_drop: float = MAX_DROP,
    max_disagreement: float = MAX_DISAGREEMENT,
    metrics: Mapping[str, type[Metric]] | None = None,
    label_map: str | Path | None = None,
    slices: str | Sequence[str] = (),
    bootstrap: int = 0,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    workers: int = 1,
    address: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Comparison]:
    """Compare several backends, or maps that a robot recorded, with PyTorch: results by backend.

    Args:
        bundle: The bundle, or its folder.
        checkpoint: What it was built from, as in `compare`.
        data: A labelled data set, a folder of images, or `photos`.
        backends: Names of backends.
        results: What `record` wrote on a robot; then no engine runs here.
        report: Where a page with the pictures of the first backend is written; None writes none.
        max_drop: With labels, how much worse a task may be, as a fraction of the network's value.
        max_disagreement: Without labels, the fraction that a task's map may differ.
        metrics: By task, metrics in place of the tasks' own.
        label_map: The classes of the ids in the label files of `folder:DIR`, as in `compare`.
        slices: Parts to score apart, as in `evaluate`.
        bootstrap: Sets of images that are drawn for the intervals of 95 %; 0 gives none.
        size: Height and width of a bundle that has several sizes; None takes its first.
        threads: CPU threads; None takes what `load` takes, which several processes share.
        workers: Processes that compare, as in `evaluate`.
        address: A Ray cluster that compares, as in `evaluate`.
        progress: Called with an `Event` after each image.

    Raises:
        DegmixError: What `compare` raises; or `results` are of another bundle or other images.
    """
    limits = {"max_drop": max_drop, "max_disagreement": max_disagreement}
    check_limits(**limits)
    cut = Cut(parse_slices(slices), bootstrap)
    opened = (bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))).at(size)
    part = ComparisonPart(
        *(str(opened.path), opened.digest, opened.chosen_size, checkpoint, data, label_map),
        *(results, metrics, cut, report is not None, threads),
    )
    with listening(progress):
        return _compared(opened, part, backends, report, (workers, address), **limits)


def _compared(
    bundle: Bundle,
    part: ComparisonPart,
    backends: tuple[str, ...],
    report: Path | None,
    processes: tuple[int, str | None],
    **limits: float,
) -> dict[str, Comparison]:
    """Compare each engine; the page shows the first one."""
    compared: dict[str, Comparison] = {}
    with open_comparison(part, bundle, backends, part.threads) as opened:
        # After all engines are open: a backend that is not there is said before any work.
        first = opened.found[:TENSOR_IMAGES]
        fit, network = bundle.manifest.fit, bundle.manifest.network
        few = [item.feed(fit, network) for item in first]
        tensors = tensor_differences(bundle, opened.reference.backend, few)
        page = ComparePage(bundle, part.data, [item.name for item in opened.found])
        for name, engine in opened.engines.items():
            own = replace(part, shows=part.shows and not compared)
            if processes == (1, None):
                found = count_here(own, opened, name)
            else:
                found = count_apart(own, opened, name, *processes)
            if own.shows:
                page.gallery = found.gallery
            compared[name] = conclude(found.counts, engine, opened.reference, tensors, **limits)
    if report is not None:
        page.write(report, compared)
    return compared


def record(
    bundle: str | Path | Bundle,
    target: str | Path,
    *,
    data: str = DATA,
    backend: str = "auto",
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[int, str]:
    """On a robot, without PyTorch: keep the maps of `data`, to be compared on a desktop.

    Returns:
        How many images ran, and on which backend.

    Raises:
        BundleError, BackendError: The bundle cannot be opened or run.
        OutputError: `target` cannot be written.
    """
    opened = (bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))).at(size)
    with listening(progress), load(opened, backend=backend, threads=threads) as session:
        found = images(data, opened.manifest.fit, network=opened.manifest.network)
        with counting("run", len(found)) as advance:
            save_results(session, [item.frame for item in found], Path(target), advance)
        return len(found), session.backend.name
