"""Compare an engine with the network that it was built from; the worst task decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.metrics import Metric
from degmix_edge.progress import Progress, counting, listening
from degmix_edge.runtime import Session, load
from degmix_edge.workflows.compare_report import ComparePage
from degmix_edge.workflows.comparison import (
    Comparison,
    Runs,
    compare_sessions,
    tensor_differences,
)
from degmix_edge.workflows.recorded import Recorded, save_results
from degmix_edge.workflows.reference import reference_session
from degmix_edge.workflows.sliced import Cut, parse_slices
from degmix_edge.workflows.sources import NamedImage, images

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
        threads: CPU threads; None takes what `load` takes.
        progress: Called with an `Event` after each image.

    Returns:
        The comparison; `passed` says whether every task is inside its tolerance.

    Raises:
        BundleError, BackendError: The bundle cannot be opened or run.
        CheckpointError: `checkpoint` is not what the bundle was built from.
        ConfigError, InputError: `data` cannot be read.
    """
    compared = compare_engines(
        bundle,
        checkpoint,
        data=data,
        backends=(backend,),
        max_drop=max_drop,
        max_disagreement=max_disagreement,
        metrics=metrics,
        label_map=label_map,
        slices=slices,
        bootstrap=bootstrap,
        size=size,
        threads=threads,
        progress=progress,
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
        threads: CPU threads; None takes what `load` takes.
        progress: Called with an `Event` after each image.

    Raises:
        DegmixError: What `compare` raises; or `results` are of another bundle or other images.
    """
    kinds = parse_slices(slices)
    opened = (bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))).at(size)
    with ExitStack() as stack:
        stack.enter_context(listening(progress))
        reference = stack.enter_context(reference_session(opened, checkpoint, threads))
        fit, network = opened.manifest.fit, opened.manifest.network
        specs = {task.name: task for task in network.tasks}
        found = images(data, fit, specs=specs, label_map=label_map, network=network)
        engines = _engines(opened, results, backends, threads, stack=stack)
        # After all engines are open: a backend that is not there is said before any work.
        few = [item.feed(fit, network) for item in found[:TENSOR_IMAGES]]
        tensors = tensor_differences(opened, reference.backend, few)
        limits: dict[str, Any] = {"max_drop": max_drop, "max_disagreement": max_disagreement}
        limits |= {"tensors": tensors, "metrics": metrics}
        limits["cut"] = Cut(kinds, bootstrap, tuple(item.name for item in found) if kinds else ())
        page = ComparePage(opened, data, [i.name for i in found]) if report is not None else None
        compared = _compared(engines, reference, found, page, limits)
    if page is not None and report is not None:
        page.write(report, compared)
    return compared


def _compared(
    engines: Mapping[str, Runs],
    reference: Session,
    found: Sequence[NamedImage],
    page: ComparePage | None,
    options: Mapping[str, Any],
) -> dict[str, Comparison]:
    """Compare each engine; the page watches the first one."""
    compared: dict[str, Comparison] = {}
    for name, engine in engines.items():
        see = page.watch(name, reference.backend.title) if page and not compared else None
        with counting(f"compare {name}", len(found)) as advance:
            samples = (item.load() for item in found)
            compared[name] = compare_sessions(
                engine, reference, samples, see=see, advance=advance, **options
            )
    return compared


def _engines(
    opened: Bundle,
    results: Path | None,
    backends: tuple[str, ...],
    threads: int | None,
    *,
    stack: ExitStack,
) -> dict[str, Runs]:
    if results is not None:
        recorded = Recorded(results, opened)
        return {f"{recorded.name}, recorded": recorded}
    sessions = (load(opened, backend=name, threads=threads) for name in backends)
    return {s.backend.name: stack.enter_context(s) for s in sessions}


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
