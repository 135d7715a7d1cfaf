"""What it costs to run each task of a network at a rate of its own, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.manifest import TRUNK, Split
from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.workflows.models import random_checkpoint
from degmix_edge.workflows.networks import check_split, read_checkpoint, task_names

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint


@dataclass(frozen=True)
class RateCost(Readable):
    """What tasks cost at their own rates, in multiply-adds.

    Attributes:
        split: The share of each task.
        rates: Runs a second by task.
        cost: A frame's mean cost, as a fraction of all tasks on every frame.
    """

    split: Split
    rates: dict[str, float]
    cost: float

    def text(self) -> Iterator[str | TextTable]:
        """Yield the share of the trunk and of each task with its rate, and what a frame costs."""
        split, rates = self.split, self.rates
        rows = [[TRUNK, f"{100 * split.shares[TRUNK]:.1f}", "", f"{max(rates.values()):g}"]]
        for task, mixer in split.mixers.items():
            numbers = [f"{100 * split.shares[task]:.1f}", f"{100 * mixer:.1f}"]
            rows.append([task, *numbers, f"{rates.get(task, 0.0):g}"])
        columns = ["part", "share %", "of it its mixer %", "runs a second"]
        yield TextTable("task rates", columns, rows)
        when = f"on one frame in {split.refresh}"
        when += ", and on frames that run a task with pauses" if split.has_places else ""
        yield (
            f"at these rates, a frame costs {100 * self.cost:.0f} % of all tasks on every frame, "
            f"in multiply-adds; a task that does not run costs its mixer {when}"
        )

    def values(self) -> dict[str, Any]:
        """The cost as plain values."""
        return {"split": self.split, "rates": self.rates, "cost": self.cost}


def rates_of(text: str) -> dict[str, float]:
    """`depth=30,semseg=10` as runs a second by task.

    Raises:
        ConfigError: It is no such text, or no task runs.
    """
    rates: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        task, _, rate = part.partition("=")
        try:
            rates[task.strip()] = float(rate)
        except ValueError:
            raise ConfigError(f"rates: got {part!r}, expected TASK=HERTZ as in depth=30") from None
    _check(rates)
    return rates


def rate_cost(network: Any, rates: Mapping[str, float]) -> RateCost:
    """Return what a checkpoint or a split bundle costs with tasks at their own rates.

    Args:
        network: A short name, a path of a checkpoint or of a split bundle, or a `Checkpoint`.
        rates: Runs a second by task; the highest is on every frame, and others never run.

    Raises:
        ConfigError: There is no such task, a rate is no number from 0, the bundle is not split, or
            the tasks of the network cannot run apart.
        BundleError, CheckpointError: It cannot be read.
    """
    if isinstance(network, str | Path) and Path(network).is_dir():
        split = open_bundle(Path(network)).manifest.split
        if split is None:
            raise ConfigError(
                f"{network}: always runs all tasks; build it from its checkpoint with --split, or "
                "give that checkpoint to see what this would save"
            )
    else:
        from degmix_training.cost import task_costs

        check_split(network, None)
        checkpoint = read_checkpoint(network)
        split = task_costs(checkpoint.network, checkpoint.card.height, checkpoint.card.width)
    return cost_at(split, rates)


def model_at(
    model: str, size: tuple[int, int], tasks: str | Sequence[str] | None, **settings: Any
) -> Checkpoint:
    """Return a model that is not trained, whose tasks cost what those of a trained one do.

    Args:
        model: Entry of `degmix_training.models`.
        size: Height and width of its input in pixels.
        tasks: Its tasks, as `networks.task_names` takes them.
        **settings: As `models.random_checkpoint` takes them.

    Raises:
        ConfigError: No such model, or settings that do not fit it.
    """
    return random_checkpoint(model, size, tasks=task_names(tasks, model), **settings)


def cost_at(split: Split, rates: Mapping[str, float]) -> RateCost:
    """Return what tasks with these shares cost at their own rates.

    Raises:
        ConfigError: There is no such task, or a rate is no number from 0.
    """
    for task in rates:
        if task not in split.mixers:
            raise ConfigError(unknown("task", task, [*split.mixers]))
    _check(rates)
    return RateCost(split, dict(rates), split.cost(rates))


def _check(rates: Mapping[str, float]) -> None:
    for task, rate in rates.items():
        if not 0 <= rate < math.inf:
            raise ConfigError(f"rates: {task} got {rate}, expected runs a second from 0")
    if not any(rates.values()):
        raise ConfigError("rates: no task runs; give one such as depth=30")
