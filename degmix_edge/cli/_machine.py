"""The options of a training about the machine: processes, accelerator, data loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from degmix_training.processes import Machine

MACHINE = [
    click.option(
        "--devices", type=int, default=1, show_default=True, help="GPUs of a training, here."
    ),
    click.option(
        "--nodes", type=int, default=1, show_default=True, help="Machines (torchrun, SLURM)."
    ),
    click.option(
        "--accelerator",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        show_default=True,
    ),
    click.option(
        "--workers", type=int, default=0, show_default=True, help="Data loading processes."
    ),
]


def take_machine(options: dict[str, Any], *, compiled: bool = False) -> Machine:
    """The machine that `options` describe; they are removed from it."""
    from degmix_training.processes import Machine

    names = ("accelerator", "devices", "nodes", "workers")
    return Machine(*(options.pop(name) for name in names), compiled)
