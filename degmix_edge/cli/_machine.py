"""The options of a training about the machine: processes, accelerator, data loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from degmix_training.processes import Machine

F = TypeVar("F", bound=Callable[..., Any])


def loaders(name: str) -> Callable[[F], F]:
    """The option about data loading, which is `--workers` where a verb has one training."""
    return click.option(
        name, "loaders", type=int, default=0, help="Data loading processes of a training."
    )


MACHINE = [
    click.option("--devices", type=int, default=1, help="GPUs of a training, here."),
    click.option("--nodes", type=int, default=1, help="Machines (torchrun, SLURM)."),
    click.option("--accelerator", type=click.Choice(["auto", "cpu", "gpu"]), default="auto"),
]
SPREAD = [
    click.option("--workers", type=click.IntRange(1), default=1, help="Trainings at a time."),
    click.option("--address", metavar="HOST:PORT", help="A Ray cluster that trains."),
    click.option("--asha", is_flag=True, help="Stop trainings early that are behind others."),
]


def take_machine(options: dict[str, Any], *, compiled: bool = False) -> Machine:
    """The machine that `options` describe; they are removed from it."""
    from degmix_training.processes import Machine

    names = ("accelerator", "devices", "nodes", "loaders")
    return Machine(*(options.pop(name) for name in names), compiled)
