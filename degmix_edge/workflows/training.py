"""Train a preset or a YAML config into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import degmix_training
import yaml

from degmix_edge import config
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.files import make_folder
from degmix_edge.progress import Progress, listening
from degmix_edge.report.text import Readable, TextTable

if TYPE_CHECKING:
    from degmix_training.checkpoint import Card, Score
    from degmix_training.config import TrainConfig
    from degmix_training.processes import Machine
    from degmix_training.qat import Start

CONFIGS = Path(degmix_training.__file__).parent / "configs"


@dataclass(frozen=True)
class Preset:
    """A training config that comes with the package.

    Attributes:
        name: What `train` takes.
        model: Entry of `degmix_training.models`.
        height, width: Size of the network's input in pixels.
        data: Entry of `degmix_training.data`.
    """

    name: str
    model: str
    height: int
    width: int
    data: str


@dataclass(frozen=True)
class TrainResult(Readable):
    """A run that reached its last step.

    Scores and steps are read from the files when they are first asked for, because in a job on
    several machines only the first one may see them.

    Attributes:
        checkpoint: The weights of the last step.
        best: The weights of the step with the largest mean gain over the best constant predictions.
    """

    checkpoint: Path
    best: Path

    @cached_property
    def card(self) -> Card:
        """The header of the last checkpoint.

        Raises:
            CheckpointError: The file is gone or damaged.
        """
        from degmix_training.checkpoint import read_card

        return read_card(self.checkpoint)

    @property
    def scores(self) -> dict[str, Score]:
        """By task: the score on the validation split at the last step."""
        scores: dict[str, Score] = self.card.scores
        return scores

    @property
    def page(self) -> Path:
        """The page with the curves and with predictions."""
        from degmix_training.page import PAGE

        return self.checkpoint.with_name(PAGE)

    @property
    def step(self) -> int:
        """The last step."""
        return int(self.card.step)

    @cached_property
    def best_step(self) -> int:
        """The step of the best checkpoint.

        Raises:
            CheckpointError: The file is gone or damaged.
        """
        from degmix_training.checkpoint import read_card

        return int(read_card(self.best).step)

    def text(self) -> Iterator[str | TextTable]:
        """Yield the scores of the last step, and where the best weights and the page are."""
        from degmix_edge.workflows.describe import score_table

        yield score_table(f"{self.checkpoint}, step {self.step}", self.scores)
        yield f"best so far: {self.best}, step {self.best_step}"
        yield f"report: {self.page.absolute().as_uri()}"

    def values(self) -> dict[str, Any]:
        """The run as plain values."""
        names = ("checkpoint", "best", "scores", "step")
        return {name: getattr(self, name) for name in names}


def preset_table() -> TextTable:
    """The presets of the package, one row each."""
    rows = [[p.name, p.model, f"{p.height}x{p.width}", p.data] for p in presets()]
    return TextTable("presets", ["preset", "model", "size", "data set"], rows)


def presets() -> list[Preset]:
    """The presets of the package, by name; this reads YAML files and does not need PyTorch."""
    return [_preset(path) for path in sorted(CONFIGS.glob("*.yaml"))]


def train(
    preset: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    tasks: Sequence[str] = (),
    pretrained: str | None = None,
    data: str | None = None,
    resume: bool = False,
    force: bool = False,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train `preset` into the folder `out`; see `degmix_training.fit.fit` for what it writes there.

    Args:
        preset: The name of a preset, or a path to a YAML file.
        out: The run's folder. A new one is removed again if the run does not begin.
        overrides: Changes of settings, as in `optim.lr=1e-3`.
        tasks: Train on these tasks only; empty is those of the preset.
        pretrained: Backbone weights: `timm` (its ImageNet weights), `efficientnet_lite0` (those of
            the extra `pretrained`), `none`, or a file.
        data: A data set and its folder, as in `nyud:NYUDv2`; None is that of the preset.
        resume: Continue the run that is saved in `out`.
        force: Write into an `out` that holds another run.
        machine: What it runs on; None is one process on the best accelerator.
        progress: Gets events; see `fit`.

    Raises:
        ConfigError: There is no such preset, or a setting does not fit.
        CheckpointError: `pretrained`, or the state to resume from, is missing or damaged.
        InputError: The data set's folder does not have its layout.
        OutputError: `out` is not empty and neither `resume` nor `force` is given, or it cannot be
            written.
        TrainingError: A loss is not finite, or another process of the job is gone.
        KeyboardInterrupt: It was interrupted; the last saved state can be resumed.
    """
    from degmix_training.config import TrainConfig
    from degmix_training.config import preset as preset_file

    changes = [*overrides, *([f"tasks=[{','.join(tasks)}]"] if tasks else [])]
    if pretrained:
        changes.append(f"pretrained={pretrained}")
    if data:
        changes += data_changes(data, changes)
    with listening(progress):
        settings = config.load(TrainConfig, preset_file(str(preset)), changes)
        settings.task_specs()
        return run(settings, Path(out), resume=resume, force=force, machine=machine)


def run(
    settings: TrainConfig,
    out: Path,
    *,
    resume: bool,
    force: bool,
    start: Start | None = None,
    machine: Machine | None = None,
) -> TrainResult:
    """Train as `settings` say into the folder `out`; see `train` for the arguments and errors.

    Args:
        settings: Everything that decides the result.
        out: The run's folder.
        resume: Continue the run that is saved in `out`.
        force: Write into an `out` that holds another run.
        start: What a quantization-aware training starts from.
        machine: What it runs on.
    """
    from degmix_training.callbacks import BEST
    from degmix_training.fit import fit

    with _claimed(out, not_empty=resume or force):
        path = fit(settings, out, resume=resume, start=start, machine=machine)
    return TrainResult(path, path.with_name(BEST))


def data_changes(data: str, overrides: Sequence[str], prefix: str = "") -> list[str]:
    """The changes of settings that select the data set `data`, such as `nyud:NYUDv2`.

    The sample counts of a preset belong to its own data set: of files, all samples are used.

    Args:
        data: The data set's name and its folder.
        overrides: Other changes; a sample count among them stays.
        prefix: What the settings' names start with, such as `train.`.

    Raises:
        ConfigError: There is no such data set, or its folder is missing.
    """
    from degmix_training.data import is_rendered

    name, separator, root = data.partition(":")
    rendered = is_rendered(name)
    if not separator and not rendered:
        raise ConfigError(f"--data {data}: expected NAME:DIR, as in nyud:NYUDv2")
    changes = [f"{prefix}data.name={name}", f"{prefix}data.root={root or 'null'}"]
    if not rendered and not any(c.startswith(f"{prefix}data.train=") for c in overrides):
        changes += [f"{prefix}data.train=null", f"{prefix}data.val=null"]
    return changes


def _preset(path: Path) -> Preset:
    values = yaml.safe_load(path.read_text())
    size = (values["height"], values["width"])
    return Preset(path.stem, values["model"], *size, values["data"]["name"])


@contextmanager
def _claimed(out: Path, *, not_empty: bool) -> Iterator[None]:
    """Make `out` on the first process, and remove it again if nothing was written into it.

    Raises:
        OutputError: It cannot be made, or holds files and may not.
    """
    from degmix_training.processes import is_first_process

    if not is_first_process():
        yield
        return
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out)
    if any(out.iterdir()) and not not_empty:
        raise OutputError(f"{out}: not empty; give --resume to go on, or --force to start anew")
    try:
        yield
    finally:
        for folder in new:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
