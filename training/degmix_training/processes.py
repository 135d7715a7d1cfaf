"""The processes of one training job, and how the job ends when one of them dies."""

from __future__ import annotations

import os
import time
from typing import Any

from lightning.fabric.strategies.launchers import subprocess_script

GRACE_SECONDS = 30.0
"""How long a process may take to report that another one is gone."""


def is_first_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


class PatientObserver(subprocess_script._ChildProcessObserver):  # type: ignore[misc]
    """Lightning's watchdog of child processes, which first lets the main process report the loss.

    Lightning kills the whole job as soon as it sees a dead child. The main process notices the same
    death by itself, through its broken connection, and needs a moment to say at which step it was
    and how to resume. A process that hangs in a collective is still killed.
    """

    def _terminate_all(self) -> None:
        time.sleep(GRACE_SECONDS)
        super()._terminate_all()


def watch_patiently() -> None:
    """Make Lightning start `PatientObserver`s in this process from now on."""
    module: Any = subprocess_script
    module._ChildProcessObserver = PatientObserver
