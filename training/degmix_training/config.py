"""The settings of one training run, and the model they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from degmix_edge import tasks
from degmix_edge.config import Settings, parse
from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_training import data, losses, models

PRESETS = Path(__file__).parent / "configs"


class Data(Settings):
    """Which data set, and how many samples of each split."""

    name: str = "synthetic"
    train: int = Field(2000, gt=0)
    val: int = Field(100, gt=0)


class Optim(Settings):
    """Optimiser and schedule; the published recipe is SGD with the defaults here."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    power: float = Field(0.9, gt=0)
    """lr times (1 - step / steps) to this power."""
    warmup: int = Field(0, ge=0)
    """Steps over which the lr rises from zero."""
    clip_norm: float | None = Field(None, gt=0)


class TrainConfig(Settings):
    """Everything that decides what a training run gives, except the machine."""

    model: str = "degmix"
    network: dict[str, Any] = {}
    """Settings of the model; see its `Config`."""
    tasks: tuple[str, ...] = ("semseg", "human_parts", "saliency", "normals", "edge", "depth")
    height: int = Field(448, gt=0)
    width: int = Field(576, gt=0)
    data: Data = Data()
    optim: Optim = Optim()
    loss_weights: dict[str, float] = losses.WEIGHTS
    edge_weight: float = Field(losses.EDGE_WEIGHT, gt=0, lt=1)
    """See `losses.edge_bce`."""
    steps: int = Field(40_000, gt=0)
    batch_size: int = Field(8, gt=0)
    seed: int = Field(0, ge=0)
    val_every: int = Field(500, gt=0)
    pretrained: bool = False

    def task_specs(self) -> dict[str, tasks.TaskSpec]:
        """The asked tasks with this data set's classes, in the asked order.

        Raises:
            ConfigError: A task is unknown, or the data set has no labels for it.
        """
        labelled = data.find(self.data.name).CLASSES
        specs = {}
        for name in self.tasks:
            task = tasks.find(name)
            if name not in labelled:
                raise ConfigError(
                    f"data set {self.data.name!r} has no labels for task {name!r}; "
                    f"it has {', '.join(labelled)}"
                )
            specs[name] = task.spec(labelled[name])
        return specs


def network_config(model: str, values: dict[str, Any]) -> Settings:
    """The checked settings of `model`."""
    return parse(models.find(model).Config, values, f"network of model {model!r}")


def preset(name: str) -> Path:
    """The config file of preset `name`, or `name` itself where it is a path to a YAML file.

    Raises:
        ConfigError: There is neither.
    """
    have = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name in have:
        return PRESETS / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    raise ConfigError(unknown("preset", name, have) + " A path to a YAML file also does.")
