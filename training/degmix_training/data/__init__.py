"""Data sets, one file each, with a `DataSet` class.

A data set on disk is opened as `DataSet(root)` and reads that folder. One that renders its samples
is opened as `DataSet(size)`, where the parameter is called `size` and holds height and width.

A split is a sequence of `Sample`s, so torch's DataLoader and a plain loop read it the same way.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType
from typing import cast

from degmix_edge import registry
from degmix_edge.errors import ConfigError
from degmix_training.data._augment import at_size
from degmix_training.data._base import SPLITS, DataSet
from degmix_training.data._sample import Sample, Samples

__all__ = [
    "SPLITS",
    "DataSet",
    "Sample",
    "Samples",
    "at_size",
    "find",
    "is_rendered",
    "names",
    "open_data",
    "open_split",
]


def names() -> list[str]:
    """Names of all data sets."""
    return registry.names(__name__)


def find(name: str) -> ModuleType:
    """The module of data set `name`.

    Raises:
        ConfigError: There is no such data set; the message has the nearest name.
    """
    return registry.find(__name__, name)


def is_rendered(name: str) -> bool:
    """Whether data set `name` renders its samples at any size and so has no folder.

    Raises:
        ConfigError: There is no such data set.
    """
    return "size" in inspect.signature(find(name).DataSet).parameters


def open_data(
    name: str, root: Path | None, size: tuple[int, int], label_map: Path | None = None
) -> DataSet:
    """Data set `name` in folder `root`, or rendered at `size`, height and width in pixels.

    Args:
        name: The data set.
        root: Its folder; None where it renders its samples.
        size: Height and width in pixels of rendered samples.
        label_map: A file that says which class each id of the label files is.

    Raises:
        ConfigError: There is no such data set, it needs a folder, or its ids cannot be mapped.
        InputError: The folder does not have its layout.
    """
    module = find(name)
    takes_map = "label_map" in inspect.signature(module.DataSet).parameters
    if label_map is not None and not takes_map:
        raise ConfigError(
            f"label map {label_map}: data set {name!r} has ids of its own; leave the map out, or "
            "give labels of yours as folder:DIR"
        )
    if is_rendered(name):
        return cast(DataSet, module.DataSet(size))
    if root is None:
        raise ConfigError(
            f"data set {name!r}: needs its folder; give {name}:DIR, or in a config data.root"
        )
    return cast(DataSet, module.DataSet(root, label_map) if takes_map else module.DataSet(root))


def open_split(name: str, split: str, count: int, height: int, width: int) -> Samples:
    """`count` rendered samples of one split of the synthetic scenes."""
    source = open_data(name, None, (height, width))
    return source.open_split(split, tuple(source.classes), count)
