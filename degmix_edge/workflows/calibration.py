"""How a build gets its ranges: which images it looks at, and what it measures on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge import progress
from degmix_edge.errors import InputError
from degmix_edge.network import IMAGE, as_network_takes
from degmix_edge.preprocess import Fit
from degmix_edge.workflows.sources import NamedImage, images, is_rendered, unlabelled

if TYPE_CHECKING:
    import onnx

    from degmix_edge.network import NetworkSpec
    from degmix_edge.quant.ranges import Ranges

OBSERVER = "mse"
COUNT = 64
FEW = 8
STILL = 0.05
"""Ranges that move by less than this share have settled."""


@dataclass(frozen=True)
class FittedImages:
    """Name of each image and what a backend takes of it, read as they are asked for."""

    items: Sequence[NamedImage]
    fit: Fit
    spec: NetworkSpec

    def __iter__(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Iterate from the first image, each time."""
        return ((item.name, item.feed(self.fit, self.spec)) for item in self.items)


def calibration_images(
    source: str | Path | Iterable[Any] | None,
    fit: Fit,
    count: int = COUNT,
    *,
    network: NetworkSpec | None = None,
) -> list[NamedImage]:
    """The images to calibrate with, at most `count` of a larger folder or data set.

    Args:
        source: What `sources.images` takes; or an iterable of images (paths, Pillow images, uint8
            RGB arrays `(H, W, 3)`, `NamedImage`) or of (name, image) pairs, all of which are used.
            A network that takes depth or other numbers has these in their place.
        fit: To the network's size.
        count: How many to take of a larger folder, those that differ most; 0 takes all.
        network: What the images are for; see `sources.images`.

    Raises:
        InputError: There are no images, or one cannot be read.
    """
    if source is None:
        return []
    if not isinstance(source, str | Path):
        found = as_named(source, network)
        _warn_of_few("calibration", found)
        return found
    found = images(str(source), fit, split="train", network=network)
    total = len(found)
    if count and total > count and not is_rendered(str(source)):
        from degmix_calibration.image_set import choose

        with progress.counting("look at images", total) as advance:
            reads = [partial(_look, item, fit, network) for item in found]
            chosen, duplicates = choose(reads, count, advance=advance)
        found = [found[index] for index in chosen]
        twice = f", {duplicates} duplicates left out" if duplicates else ""
        progress.note(
            f"{len(found)} of {total} images chosen, as different as they come{twice}", "images"
        )
    _warn_of_few(f"--calib {source}", found)
    return found


def some_images(
    source: str | Path | Iterable[Any],
    fit: Fit,
    count: int,
    *,
    network: NetworkSpec | None = None,
) -> list[NamedImage]:
    """The first image of a source that `calibration_images` takes, and others of it.

    Args:
        source: The source. Of an iterator only the first `count` are taken.
        fit: To the network's size.
        count: How many images, if there are as many.
        network: What the images are for.

    Raises:
        InputError: There are no images, or one cannot be read.
    """
    if isinstance(source, str | Path):
        return spread(images(str(source), fit, split="train", network=network), count)
    found = as_named(source if isinstance(source, Sequence) else islice(source, count), network)
    if not found:
        raise InputError("no images; give at least one")
    return spread(found, count)


def spread(found: Sequence[NamedImage], count: int) -> list[NamedImage]:
    """Return at most `count` of the images, the first and the last among them."""
    places = np.linspace(0, len(found) - 1, min(count, len(found)))
    return [found[int(place)] for place in places]


def as_named(items: Iterable[Any], network: NetworkSpec | None = None) -> list[NamedImage]:
    """Images, or (name, image) pairs, as named images; see `calibration_images`."""
    return [_named(index, item, network) for index, item in enumerate(items)]


def _look(item: NamedImage, fit: Fit, network: NetworkSpec | None) -> np.ndarray:
    """An image as others are told apart from it, uint8 `(H, W, 3)`.

    Numbers that are no picture are taken as the network has them, so that near and far, or cold and
    warm, differ as night and day do.
    """
    if network is None or not network.takes_map:
        return item.image
    values = as_network_takes(item.feed(fit, network)[IMAGE], network.image)[0]
    shares = values / (1 + np.abs(values))  # from -1 to 1, whatever the unit
    levels = np.rint(127.5 * (1 + shares)).astype(np.uint8)
    return np.moveaxis(levels[np.arange(3) % len(levels)], 0, -1)


def measure_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    found: Sequence[NamedImage],
    fit: Fit,
    spec: NetworkSpec,
    *,
    observer: str = OBSERVER,
    state: Path | None = None,
) -> Ranges:
    """Ranges of `tensors` of the deployed float graph `model` over the images `found`.

    Args:
        model: The graph.
        tensors: Names of float tensors.
        found: The images.
        fit: To the network's size.
        spec: The network.
        observer: Entry of `degmix_calibration.observers`.
        state: A file from which an interrupted calibration resumes.

    Raises:
        ConfigError: No such observer.
        InputError: There are no images.
        BuildError: A tensor is not finite.
    """
    from degmix_calibration.collect import collect

    if state is not None and state.exists():
        progress.note(f"{state}: going on with an interrupted calibration", "calibrate")
    with progress.counting("calibrate", len(found)) as advance:
        pairs = FittedImages(found, fit, spec)
        measured: Ranges = collect(model, tensors, pairs, observer, advance=advance, state=state)
    if settled_after(measured) is None and len(found) > 1:
        progress.warn("ranges were still moving with the last images: give more of them")
    return measured


def settled_after(ranges: Ranges) -> int | None:
    """After how many images 90 % of the ranges stopped moving by more than 5 %, or None."""
    for step in ranges.convergence[:-1]:
        later = [s for s in ranges.convergence if s.images >= step.images]
        if all(s.low >= 1 - STILL and s.high <= 1 + STILL for s in later):
            return step.images
    return None


def _named(index: int, item: Any, network: NetworkSpec | None) -> NamedImage:
    if isinstance(item, NamedImage):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        name, picture = item
    else:
        name, picture = str(item) if isinstance(item, str | Path) else f"image {index}", item
    return NamedImage(name, partial(unlabelled, picture, network))


def _warn_of_few(what: str, found: Sequence[NamedImage]) -> None:
    if not found:
        raise InputError(f"{what}: no images; give at least {FEW} that are typical")
    if len(found) < FEW:
        progress.warn(
            f"{what}: {len(found)} images; ranges from fewer than {FEW} miss what the robot will "
            "see. 32 to 128 typical ones do"
        )
