"""How a training job ends when one of its processes dies."""

from __future__ import annotations

import time
from typing import Any

from lightning.fabric.strategies.launchers import subprocess_script

GRACE_SECONDS = 30.0
"""How long a process may take to report that another one is gone."""


class PatientObserver(subprocess_script._ChildProcessObserver):  # type: ignore[misc]
    """Lightning's watchdog of child processes, which first lets the main process report the loss.

    Lightning kills the whole job as soon as it sees a dead child. The main process also notices the
    loss, through its broken connection, and needs a moment to report at which step it happened and
    how to resume. A process that hangs in a collective is still killed.
    """

    def _terminate_all(self) -> None:
        time.sleep(GRACE_SECONDS)
        super()._terminate_all()


def watch_patiently() -> None:
    """Make Lightning start `PatientObserver`s in this process from now on."""
    module: Any = subprocess_script
    module._ChildProcessObserver = PatientObserver
