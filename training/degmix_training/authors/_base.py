"""What every importer gives, and the task specs it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from degmix_edge import tasks
from degmix_edge.errors import CheckpointError
from degmix_edge.preprocess import MEAN, STD
from degmix_edge.tasks import TaskSpec
from degmix_training.pretrained import Fate


@dataclass(frozen=True)
class Imported:
    """The network, its settings and the fate of every key.

    Attributes:
        data: The data set of ours that its tasks and classes tell; `folder` for one that none of
            ours reads.
        size: Height and width it was trained at, where the weights tell.
        mean, std: What images were normalised by.
        notes: What a user must know: what is assumed, what was found out and how.
    """

    model: str
    network: nn.Module
    config: dict[str, Any]
    tasks: dict[str, TaskSpec]
    fates: list[Fate]
    data: str
    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    notes: list[str] = field(default_factory=list)


def task_spec(
    path: Path, name: str, channels: int, classes: Mapping[str, tuple[str, ...]]
) -> TaskSpec:
    """The spec of task `name` with `channels` channels.

    Its classes are numbered where neither `classes` nor the task has that many names.

    Raises:
        CheckpointError: The task has another number of channels.
    """
    task = tasks.find(name)
    if task.num_channels is not None:
        if task.num_channels != channels:
            raise CheckpointError(
                f"{path}: task {name!r} has {channels} channels, expected {task.num_channels}"
            )
        return task.spec()
    names = tuple(classes.get(name, ())) or task.classes
    if len(names) != channels:
        names = tuple(f"class {index}" for index in range(channels))
    return task.spec(names)
