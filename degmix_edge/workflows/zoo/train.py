"""The trainings of a zoo, one after the other, each in a process of its own.

`trials` trains several at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge import config
from degmix_edge.errors import DegmixError, TrainingError
from degmix_edge.files import make_folder, write_file
from degmix_edge.progress import Event, emit, note, warn

if TYPE_CHECKING:
    from degmix_training.config import TrainConfig
    from degmix_training.processes import Machine

STOPPED = "stopped.json"
"""The file in the folder of a training that ASHA ended early."""


def train_networks(
    runs: Mapping[str, TrainConfig], out: Path, machine: Machine | None = None
) -> None:
    """Train each of `runs` into `OUT/NAME/run`, from where it stopped; a finished one stays.

    Args:
        runs: Settings by name.
        out: The zoo's folder.
        machine: What each training runs on.

    Raises:
        TrainingError: A training failed; the message has its error.
        KeyboardInterrupt: It was interrupted; what was saved stays.
    """
    from degmix_training.processes import job_environment

    todo = {n: s for n, s in runs.items() if not is_trained(out / n / "run", s)}
    if not todo:
        return
    turns = {name: turn for turn, name in enumerate(runs)}
    steps = {
        name: settings.steps - saved_step(out / name / "run") for name, settings in todo.items()
    }
    total = sum(steps.values())
    stage, start, done = f"train {len(todo)} networks", time.perf_counter(), 0
    emit(Event(stage, total=total))
    for index, (name, settings) in enumerate(todo.items()):
        began = time.perf_counter()
        (out / name / STOPPED).unlink(missing_ok=True)
        hear = _Part(stage, total, done - (settings.steps - steps[name]), name)
        _train_one(out / name, settings, machine, hear, job_environment(turns[name]))
        done += steps[name]
        now = time.perf_counter()
        left = (total - done) * (now - start) / max(done, 1)
        note(
            f"{name}: trained in {now - began:.0f} s; "
            f"{len(todo) - index - 1} networks left, about {left / 60:.1f} min",
            stage,
        )
    seconds = time.perf_counter() - start
    emit(Event(stage, "finished", done=done, total=total, seconds=seconds))


def saved_step(run: Path) -> int:
    """The step of the last saved state of the run in the folder `run`; 0 where there is none."""
    from degmix_training.checkpoint import read_card

    path = run / "last.safetensors"
    return int(read_card(path).step) if path.exists() else 0


@dataclass(frozen=True)
class _Part:
    """Turns the events of one training into those of all trainings.

    Attributes:
        stage: The name of all trainings.
        total: Their steps.
        before: Their steps that are done, less the step at which this training starts.
        name: The network.
    """

    stage: str
    total: int
    before: int
    name: str

    def __call__(self, event: Event) -> None:
        """Pass on `event`."""
        if event.kind == "note":
            note(f"  {self.name}: {event.detail}", self.stage)
        elif event.kind == "warning":
            warn(f"{self.name}: {event.detail}", self.stage)
        elif event.name != "train":  # rendering, for one
            emit(event)
        elif event.kind == "step":
            done, detail = self.before + event.done, f"{self.name} {event.detail}".rstrip()
            emit(Event(self.stage, done=done, total=self.total, detail=detail))


def _train_one(
    folder: Path,
    settings: TrainConfig,
    machine: Machine | None,
    hear: _Part,
    environment: Mapping[str, str],
) -> None:
    from degmix_training.child import fit_in_child

    make_folder(folder)
    path, run = folder / "train.yaml", folder / "run"
    write_file(path, config.dump(settings).encode(), force=True)
    resume = (run / "last.ckpt").exists()
    try:
        fit_in_child(
            path, run, resume=resume, machine=machine, environment=environment, progress=hear
        )
    except DegmixError as error:
        raise TrainingError(
            f"{folder.name}: training ended at step {saved_step(run)}: {type(error).__name__}: "
            f"{error}. The others keep what they have; the same command goes on"
        ) from error


def is_trained(run: Path, settings: TrainConfig) -> bool:
    """Whether the run in the folder `run` has reached its last step."""
    return saved_step(run) >= settings.steps and (run / "best.safetensors").exists()


def stopped_step(folder: Path, steps: int) -> int:
    """Return the step at which ASHA ended the training in `folder`; 0 where it did not."""
    path = folder / STOPPED
    if not path.exists() or saved_step(folder / "run") >= steps:
        return 0
    return int(json.loads(path.read_text())["step"])
