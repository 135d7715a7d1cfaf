"""Count the images of a comparison: here, or in parts that other processes count."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge.bundle.contents import Bundle, open_same
from degmix_edge.errors import ConfigError
from degmix_edge.metrics import Metric
from degmix_edge.progress import counting, listening
from degmix_edge.report.gallery import Gallery
from degmix_edge.runtime import Session, load
from degmix_edge.workflows.compare_report import ComparePage
from degmix_edge.workflows.comparison_counts import Counts, Runs
from degmix_edge.workflows.recorded import Recorded
from degmix_edge.workflows.reference import reference_session
from degmix_edge.workflows.sliced import Cut
from degmix_edge.workflows.sources import NamedImage, images
from degmix_edge.workflows.spread import count_in_parts

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ComparisonPart:
    """What a process needs to compare some images: arguments of `compare_engines`.

    Attributes:
        bundle: The bundle's folder.
        digest: Its digest when the comparison began; a process refuses any other.
        size: The size that was chosen of several.
        shows: Whether pictures for the page are wanted.
    """

    bundle: str
    digest: str
    size: tuple[int, int] | None
    checkpoint: str | Path | nn.Module | None
    data: str
    label_map: str | Path | None
    results: Path | None
    metrics: Mapping[str, type[Metric]] | None
    cut: Cut
    shows: bool
    threads: int | None


@dataclass(frozen=True)
class Opened:
    """A comparison that can run.

    Attributes:
        bundle: The bundle, at the size that was chosen.
        reference: The network that it was built from.
        found: The images.
        engines: By name, what is compared with the reference.
    """

    bundle: Bundle
    reference: Session
    found: Sequence[NamedImage]
    engines: Mapping[str, Runs]


@dataclass
class PartCounts:
    """What was counted of some images, with their pictures for the page."""

    counts: Counts
    gallery: Gallery

    def merge(self, other: PartCounts) -> None:
        """Append the next images."""
        self.counts.merge(other.counts)
        self.gallery.merge(other.gallery)


@contextmanager
def open_comparison(
    part: ComparisonPart, bundle: Bundle, backends: Sequence[str], threads: int | None
) -> Iterator[Opened]:
    """Open the reference, the images and the engines, and close them at the end of the block.

    Args:
        part: What is compared.
        bundle: Its bundle.
        backends: Names of backends; recorded results take their place.
        threads: CPU threads; None takes all cores.

    Raises:
        DegmixError: What `compare_engines` raises.
    """
    with ExitStack() as stack:
        reference = reference_session(bundle, part.checkpoint, threads)
        stack.enter_context(reference)
        fit, network = bundle.manifest.fit, bundle.manifest.network
        specs = {task.name: task for task in network.tasks}
        found = images(part.data, fit, specs=specs, label_map=part.label_map, network=network)
        engines: dict[str, Runs] = {}
        if part.results is not None:
            recorded = Recorded(part.results, bundle)
            engines[f"{recorded.name}, recorded"] = recorded
        for name in () if engines else backends:
            session = stack.enter_context(load(bundle, backend=name, threads=threads))
            engines[session.backend.name] = session
        yield Opened(bundle, reference, found, engines)


def count_here(part: ComparisonPart, opened: Opened, engine: str) -> PartCounts:
    """Count all images in this process."""
    with counting(f"compare {engine}", len(opened.found)) as advance:
        return _count(part, opened, engine, advance)


def count_apart(
    part: ComparisonPart, opened: Opened, engine: str, workers: int, address: str | None
) -> PartCounts:
    """Count all images in other processes.

    Raises:
        ConfigError: The network remembers earlier images, an argument cannot be sent to another
            process, `workers` is below 1, or nothing answers at the address.
        DegmixError: What `compare_engines` raises.
    """
    network = opened.bundle.manifest.network
    if any(one.kind == "state" for one in network.inputs):
        raise ConfigError(
            f"compare: the network {network.model!r} remembers earlier images, so that no image "
            "can be compared without those before it; leave --workers and --address out"
        )
    try:
        pickle.dumps(part)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"compare: the network or a metric cannot be sent to other processes ({error}); define "
            "it in a module that can be imported, or leave `workers` and `address` out"
        ) from None
    return count_in_parts(
        compare_part,
        (part, engine),
        len(opened.found),
        stage=f"compare {engine}",
        workers=workers,
        address=address,
    )


def compare_part(
    part: ComparisonPart, engine: str, start: int, stop: int, threads: int
) -> PartCounts:
    """Return the counts of the images from `start` to before `stop`, in a process of their own.

    Args:
        part: What is compared.
        engine: The name of a backend, not `auto`.
        start: Position of the first image.
        stop: Position behind the last one.
        threads: CPU threads where the user gave none; 0 takes all cores.

    Raises:
        BundleError: The bundle was replaced after the comparison began.
        DegmixError: What `compare_engines` raises.
    """
    own = part.threads or threads or None
    bundle = open_same(Path(part.bundle), part.digest).at(part.size)
    # The first process has given every warning already.
    with listening(lambda event: None), open_comparison(part, bundle, (engine,), own) as whole:
        opened = replace(whole, found=whole.found[start:stop])
        return _count(part, opened, next(iter(opened.engines)), is_part=True)


def _count(
    part: ComparisonPart,
    opened: Opened,
    engine: str,
    advance: Callable[[int], None] = lambda n: None,
    *,
    is_part: bool = False,
) -> PartCounts:
    session, reference = opened.engines[engine], opened.reference
    names = [item.name for item in opened.found]
    cut = replace(part.cut, names=tuple(names) if part.cut.slices else ())
    counts = Counts(session.spec.tasks, part.metrics, cut, is_part=is_part)
    page = ComparePage(opened.bundle, part.data, names)
    see = page.watch(engine, reference.backend.title) if part.shows else None
    samples = (item.load() for item in opened.found)
    counts.add_all(session, reference, samples, see=see, advance=advance)
    return PartCounts(counts, page.gallery)
