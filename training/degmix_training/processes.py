"""The processes of one training job: how many there are, and which of them reports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from degmix_edge.errors import ConfigError
from degmix_edge.progress import Event, Progress, listening


@dataclass(frozen=True)
class Machine:
    """What a run is done with. It changes the results by rounding only.

    Attributes:
        accelerator: Lightning's name: `auto`, `cpu`, `gpu`.
        devices: Processes on this machine.
        nodes: Machines; each runs the same command, started by torchrun or SLURM.
        workers: Processes that load samples, for each training process.
        compile: Compile the network with `torch.compile`.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ConfigError: There would be no process, or a negative number of them.
        """
        for name, least in (("devices", 1), ("nodes", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least {least}")


def is_first_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


@contextmanager
def first_listening(progress: Progress | None) -> Iterator[None]:
    """Send the events of the block to `progress`, on the first process of a job only."""
    with listening(progress if is_first_process() else _ignore):
        yield


def _ignore(event: Event) -> None:
    """Drop the event: the first process reports the same one."""


def job_environment(turn: int) -> dict[str, str]:
    """The environment variables for another job that each process of this one starts.

    Under torchrun that job needs a place of its own where its processes meet, because torchrun's
    agent remembers where the processes of the previous job met.

    Args:
        turn: The number of the job, from 0; it decides the port.
    """
    environment = dict(os.environ)
    if "TORCHELASTIC_RUN_ID" in environment:
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        environment["MASTER_PORT"] = str(int(environment["MASTER_PORT"]) + 1 + turn)
    return environment
