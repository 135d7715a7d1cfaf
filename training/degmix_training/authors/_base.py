"""What every importer gives, and the task specs it makes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from degmix_edge import tasks
from degmix_edge.errors import CheckpointError
from degmix_edge.preprocess import MEAN, STD
from degmix_edge.tasks import TaskSpec
from degmix_training import data
from degmix_training.backbone import PLAIN_STRIDE
from degmix_training.pretrained import COUNTER, Fate

TASKS = {"sal": "saliency"}
"""Names of tasks in the code of this line, where they are not ours."""


@dataclass(frozen=True)
class Imported:
    """The network, its settings and the fate of every key.

    Attributes:
        data: The data set of ours that its tasks and classes tell; `folder` for one that none of
            ours reads.
        size: Height and width it was trained at, where the weights tell.
        fixed_size: Whether the network runs at no other size.
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
    fixed_size: bool = False
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    notes: list[str] = field(default_factory=list)


def place_renamed(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    renamed: Mapping[str, str],
    reasons: Mapping[str, str],
) -> tuple[dict[str, Tensor], list[Fate]]:
    """Give weights our names.

    The bias of a convolution that has none here, because a batch norm follows it in the same
    sequence, is subtracted from the norm's mean. Counters of batches start anew.

    Args:
        own: The weights of our network.
        tensors: Those of the file.
        renamed: For each of the file's keys that are to be placed, our name.
        reasons: Patterns of keys that may have no place here, and why.

    Returns:
        The weights by our names, and what became of each key in `renamed`.
    """
    state = {name: tensor for name, tensor in own.items() if name.endswith(COUNTER)}
    biases: dict[str, Tensor] = {}
    fates = []
    for key, name in renamed.items():
        mean = _mean_behind(name)
        if name.endswith(COUNTER):
            fates.append(Fate(key, "", "counter of batches"))
        elif name in own:
            state[name] = tensors[key]
            fates.append(Fate(key, name))
        elif mean in own:
            biases[mean] = tensors[key]
            fates.append(Fate(key, "", "folded into the mean of the batch norm behind it"))
        else:
            whys = [why for pattern, why in reasons.items() if re.match(pattern, key)]
            fates.append(Fate(key, "", *whys[:1]))
    for mean in biases.keys() & state.keys():
        state[mean] = state[mean] - biases[mean]
    return state, fates


def _mean_behind(name: str) -> str:
    """Return the name of the mean that a batch norm behind a convolution's bias would have."""
    match = re.match(r"(.*)\.(\d+)\.bias$", name)
    return f"{match[1]}.{int(match[2]) + 1}.running_mean" if match else ""


def need(path: Path, tensors: Mapping[str, Tensor], key: str) -> Tensor:
    """Return the weight `key`, by which sizes are told.

    Raises:
        CheckpointError: The file does not have it.
    """
    if key not in tensors:
        raise CheckpointError(f"{path}: no {key}, by which the sizes of the network are told")
    return tensors[key]


def image_size(patches: int, published: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image of so many patches: as published, or of a square."""
    if patches == published[0] * published[1] // PLAIN_STRIDE**2:
        return published
    side = math.isqrt(patches) * PLAIN_STRIDE
    return side, side


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


def data_and_specs(
    path: Path, channels: Mapping[str, int], classes: Mapping[str, tuple[str, ...]] | None
) -> tuple[str, dict[str, TaskSpec]]:
    """Return the data set that the tasks tell, and the spec of each task.

    Args:
        path: The file, for messages.
        channels: How many there are, by the file's name of each task.
        classes: Class names by task; None is those of the data set.

    Raises:
        CheckpointError: A task has another number of channels.
    """
    ours = {TASKS.get(name, name): count for name, count in channels.items()}
    source = "pascal_context" if "human_parts" in ours else "nyud"
    known = data.find(source).DataSet.classes if classes is None else classes
    return source, {name: task_spec(path, name, count, known) for name, count in ours.items()}
