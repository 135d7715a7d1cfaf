"""What people name on the command line: checkpoints, ONNX files, images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_edge.preprocess import Fit, fit_image, list_images, read_image
from degmix_edge.registry import unknown

if TYPE_CHECKING:
    import onnx
    from degmix_training.checkpoint import Checkpoint

    from degmix_edge.network import NetworkSpec

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle")
"""Of scikit-image's wheel."""


@dataclass(frozen=True)
class NamedImage:
    """An image of any size, with what labels it has; labels have the image's size.

    Attributes:
        source: The pixels, or the file that they are read from each time.
    """

    name: str
    source: np.ndarray | Path
    labels: Mapping[str, np.ndarray]

    @property
    def image(self) -> np.ndarray:
        """uint8 `(H, W, 3)`."""
        return self.source if isinstance(self.source, np.ndarray) else read_image(self.source)

    def fitted(self, fit: Fit) -> np.ndarray:
        """At the network's size."""
        return fit_image(self.image, fit)[0]


@dataclass(frozen=True)
class FittedImages:
    """Name and pixels at the network's size of each image, read as they are asked for."""

    items: Sequence[NamedImage]
    fit: Fit

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """From the first one, each time."""
        return ((item.name, item.fitted(self.fit)) for item in self.items)


def images(source: str, fit: Fit, split: str = "test") -> list[NamedImage]:
    """Images of a folder, of a data set (`synthetic:64`), or scikit-image's photographs (`photos`).

    A data set's come at the network's size, `fit`.

    Raises:
        InputError: No folder, no images, or one that cannot be read.
        ConfigError: No such data set, or a count that is no number.
    """
    check_images(source)
    if source == "photos":
        return photographs()
    name, separator, count = source.partition(":")
    if separator and not Path(source).exists():
        from degmix_training import data

        samples = data.open_split(name, split, int(count), fit.height, fit.width)
        return [NamedImage(s.name, s.image, s.labels) for s in samples]
    return [NamedImage(path.name, path, {}) for path in list_images(source)]


def check_images(source: str) -> None:
    """Fail before long work where `source` names no images; pixels are read later.

    Raises:
        InputError, ConfigError: As `images`.
    """
    from degmix_training import data

    name, separator, count = source.partition(":")
    if source == "photos":
        return
    if separator and not Path(source).exists():
        if name not in data.names():
            raise ConfigError(
                unknown("data set", name, data.names()) + " A folder of images also does."
            )
        if not count.isdigit() or int(count) < 1:
            raise ConfigError(f"{name}:{count}: expected a count of images, as in {name}:64")
        return
    if source in data.names() and not Path(source).exists():
        raise ConfigError(f"{source!r}: give a count, as in {source}:64")
    list_images(source)


def photographs() -> list[NamedImage]:
    """The photographs that ship inside scikit-image."""
    import skimage.data

    found = [(name, getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    return [NamedImage(n, p[0] if isinstance(p, tuple) else p, {}) for n, p in found]


def checkpoint(name: str) -> Checkpoint:
    """A checkpoint by path, or by the short name of a shipped one."""
    from degmix_training.checkpoint import load, locate

    return load(locate(name))


def check_source(source: str) -> None:
    """Complain of a checkpoint or ONNX file before anything else is asked for.

    Raises:
        CheckpointError, GraphError: There is no such file.
    """
    from degmix_edge.errors import GraphError

    if not source.endswith(".onnx"):
        from degmix_training.checkpoint import locate

        locate(source)
    elif not Path(source).is_file():
        raise GraphError(f"{source}: no such file")


def network(
    source: str, done: Callable[[str, str], None], tasks: Sequence[str] = ()
) -> tuple[onnx.ModelProto, NetworkSpec]:
    """The float ONNX network of a checkpoint or an ONNX file; `done(stage, detail)` reports.

    Of a checkpoint only `tasks` are exported; passes drop the others from an ONNX file.

    Raises:
        CheckpointError, GraphError: It is neither, or damaged.
    """
    from degmix_edge.foreign import network_spec as spec_of
    from degmix_edge.passes._base import read_model

    if source.endswith(".onnx"):
        model = read_model(Path(source))
        return model, spec_of(model, Path(source))
    from degmix_training.export import export, network_spec

    loaded = checkpoint(source)
    model = export(loaded, tasks=tasks)
    detail = f"{loaded.path.name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB"
    done("export", detail)
    return model, network_spec(loaded, tasks)


def split_tasks(text: str | None) -> tuple[str, ...]:
    """`semseg,depth` as names.

    Raises:
        ConfigError: A name is no task; the message has the nearest one.
    """
    from degmix_edge import tasks

    names = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for name in names:
        tasks.find(name)
    return names
