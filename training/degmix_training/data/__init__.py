"""Data sets, one file each: `open_split(split, count, height, width)` and `CLASSES`.

A split is any sequence of `Sample`s, so torch's DataLoader and a plain loop read it alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import cast

from degmix_edge import registry
from degmix_training.data._sample import Sample

__all__ = ["Sample", "find", "names", "open_split"]

SPLITS = ("train", "val", "test")


def names() -> list[str]:
    """Names of all data sets."""
    return registry.names(__name__)


def find(name: str) -> ModuleType:
    """The module of data set `name`.

    Raises:
        ConfigError: There is no such data set.
    """
    return registry.find(__name__, name)


def open_split(name: str, split: str, count: int, height: int, width: int) -> Sequence[Sample]:
    """`count` samples of one split, images and labels at `(height, width)`."""
    return cast(Sequence[Sample], find(name).open_split(split, count, height, width))
