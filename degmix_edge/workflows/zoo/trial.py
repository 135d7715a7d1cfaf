"""One training of a zoo in a process of Ray Tune."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import __version__, config
from degmix_edge.cluster import public_kind
from degmix_edge.errors import BackendError, ConfigError, DegmixError
from degmix_edge.progress import Event
from degmix_edge.workflows.zoo.train import is_trained, saved_step, stopped_step

if TYPE_CHECKING:
    from degmix_training.processes import Machine

ASHA_STEP, ASHA_GAIN = "asha_step", "asha_gain"
"""What ASHA compares. A result without them is none of its business."""
WORST = -1e9
"""The gain of a network without one: Ray compares finite numbers."""


def versions_here() -> dict[str, str]:
    """Return the versions that decide what a training gives."""
    import torch

    return {"degmix-edge": __version__, "torch": torch.__version__}


def train_one(
    trial: Mapping[str, Any],
    *,
    out: str,
    machine: Machine,
    threads: int,
    versions: Mapping[str, str],
    references: Sequence[str],
) -> None:
    """Train one network in a process of Ray, and report each validation.

    An error of ours is a result too, with its class and message: what Ray makes of one that a trial
    raises does not always hold it.

    Args:
        trial: `name` is that of the training.
        out: The zoo's folder.
        machine: What it runs on.
        threads: How many PyTorch may use.
        versions: Those of the machine that started the zoo.
        references: Names of the trainings that ASHA must not end.
    """
    from ray import tune

    folder = Path(out) / trial["name"]
    is_compared = trial["name"] not in references
    reports = _Reports(folder / "run", tune.report, is_compared)
    try:
        _check_machine(folder, versions)
        reports.replay()
        _fit(folder, reports, machine, threads)
    except DegmixError as error:
        if not reports.is_stopped:
            name = public_kind(error).__name__
            tune.report({"step": 0, "gain": WORST, "error": name, "text": str(error)})
    except SystemExit:
        if not reports.is_stopped:
            raise


def _check_machine(folder: Path, versions: Mapping[str, str]) -> None:
    own, host = versions_here(), socket.gethostname()
    if wrong := [f"{n} {own[n]}, expected {v}" for n, v in versions.items() if own[n] != v]:
        raise BackendError(f"machine {host} of the cluster has {'; '.join(wrong)}")
    if not (folder / "train.yaml").exists():
        raise ConfigError(f"machine {host} of the cluster does not see {folder}; share --out")


def _fit(folder: Path, reports: _Reports, machine: Machine, threads: int) -> None:
    import torch
    from degmix_training.config import TrainConfig
    from degmix_training.fit import fit

    settings, run = config.load(TrainConfig, folder / "train.yaml"), folder / "run"
    if is_trained(run, settings) or stopped_step(folder, settings.steps):
        return
    torch.set_num_threads(threads)
    resume = (run / "last.ckpt").exists()
    fit(settings, run, resume=resume, machine=machine, progress=reports.hear)
    reports.replay()


@dataclass
class _Reports:
    """Reports each validation to Ray once, after it has been saved.

    Attributes:
        run: The run's folder.
        report: Takes a result. It raises SystemExit where Ray has ended the trial.
        is_compared: Whether ASHA hears of it.
        step: The last step that was reported.
        is_stopped: Whether Ray has ended the trial.
    """

    run: Path
    report: Callable[[dict[str, Any]], None]
    is_compared: bool
    step: int = 0
    is_stopped: bool = False
    _has_new: bool = False

    def hear(self, event: Event) -> None:
        """Report what was validated before this event of `fit`."""
        if self._has_new and event.kind in ("step", "finished"):
            self._has_new = False
            self.replay()
        elif event.kind == "note":
            self._has_new = True

    def replay(self) -> None:
        """Report every validation that was saved and is not reported yet."""
        for row in self._validations():
            if row["step"] <= self.step:
                continue
            self.step = int(row["step"])
            gain = row["gain"] if math.isfinite(row["gain"]) else WORST
            result = {"step": self.step, "gain": gain}
            if self.is_compared:
                result |= {ASHA_STEP: self.step, ASHA_GAIN: gain}
            try:
                self.report(result)
            except SystemExit:
                self.is_stopped = True
                raise

    def _validations(self) -> Iterator[dict[str, Any]]:
        path = self.run / "scores.json"
        saved = saved_step(self.run)
        for row in json.loads(path.read_text()) if path.exists() else ():
            if row["step"] <= saved:
                yield row
