"""What people name on the command line: checkpoints, ONNX files, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.errors import ConfigError, InputError
from degmix_edge.preprocess import Fit, fit_image, list_images
from degmix_edge.registry import unknown

if TYPE_CHECKING:
    import onnx
    from degmix_training.checkpoint import Checkpoint

    from degmix_edge.network import NetworkSpec

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle")
"""Of scikit-image's wheel."""


@dataclass(frozen=True)
class NamedImage:
    """An image at the network's size, with what labels it has."""

    name: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]


def images(source: str, fit: Fit, split: str = "test") -> list[NamedImage]:
    """Images of a folder, of a data set (`synthetic:64`), or scikit-image's photographs (`photos`).

    Raises:
        InputError: No folder, no images, or one that cannot be read.
        ConfigError: No such data set, or a count that is no number.
    """
    name, separator, count = source.partition(":")
    if source == "photos":
        return photographs(fit)
    if separator and not Path(source).exists():
        return _data_set(name, count, fit, split)
    if not Path(source).exists() and name in ("synthetic", "photo"):
        raise ConfigError(f"{source!r}: give a count, as in synthetic:64; `photos` has no count")
    return [NamedImage(p.name, fit_image(p, fit)[0], {}) for p in list_images(source)]


def photographs(fit: Fit) -> list[NamedImage]:
    """The photographs that ship inside scikit-image."""
    import skimage.data

    found = []
    for name in PHOTOGRAPHS:
        pixels = getattr(skimage.data, name)()
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels
        found.append(NamedImage(name, fit_image(pixels, fit)[0], {}))
    return found


def _data_set(name: str, count: str, fit: Fit, split: str) -> list[NamedImage]:
    from degmix_training import data

    if name not in data.names():
        raise ConfigError(
            unknown("data set", name, data.names()) + " A folder of images also does."
        )
    if not count.isdigit() or int(count) < 1:
        raise InputError(f"{name}:{count}: expected a count of images, as in {name}:64")
    samples = data.open_split(name, split, int(count), fit.height, fit.width)
    return [NamedImage(s.name, s.image, s.labels) for s in samples]


def checkpoint(name: str) -> Checkpoint:
    """A checkpoint by path, or by the short name of a shipped one."""
    from degmix_training.checkpoint import load, locate

    return load(locate(name))


def network(source: str, done: Callable[[str, str], None]) -> tuple[onnx.ModelProto, NetworkSpec]:
    """The float ONNX network of a checkpoint or an ONNX file; `done(stage, detail)` reports.

    Raises:
        CheckpointError, GraphError: It is neither, or damaged.
    """
    from degmix_edge.build import infer_spec
    from degmix_edge.passes._base import read_model

    if source.endswith(".onnx"):
        model = read_model(Path(source))
        return model, infer_spec(model, Path(source))
    from degmix_training.export import export, network_spec

    loaded = checkpoint(source)
    model = export(loaded)
    detail = f"{loaded.path.name}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB"
    done("export", detail)
    return model, network_spec(loaded)


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


def arrays(found: Sequence[NamedImage]) -> list[np.ndarray]:
    """The images alone."""
    return [item.image for item in found]
