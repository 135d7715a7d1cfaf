"""A zoo: several networks trained the same way, so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_training import models
from degmix_training.config import PRESETS, Balancing, NotNegative, TrainConfig, network_config

SINGLE = "single-"
"""The start of the names of the single-task networks that delta_m is measured against."""
Seed = Annotated[int, Field(ge=0)]


class Entry(Settings):
    """One network of a zoo.

    A network of one task has nothing to weigh, so networks that differ in `loss_weights` and
    `balance` can be compared with single-task ones all the same.

    Attributes:
        model: Entry of `degmix_training.models`.
        network: The model's settings; the zoo's backbone is added where they name none.
        loss_weights: Weights of the tasks that weigh otherwise than in the zoo's `train`.
        balance: How the losses are balanced; None is as in the zoo's `train`.
        steps: Steps of this network's training; None is as in the zoo's `train`. With more, a
            network of all tasks is compared at equal cost of training: the single-task networks
            have theirs for each task.
    """

    model: str
    network: dict[str, Any] = {}
    loss_weights: dict[str, NotNegative] = {}
    balance: Balancing | None = None
    steps: Annotated[int, Field(gt=0)] | None = None


class ZooConfig(Settings):
    """Networks, and what they share: data, size, tasks, budget, recipe, backbone.

    Attributes:
        backbone: The backbone of every network that does not bring its own, as M3ViT does.
        reference: What delta_m is measured against, trained by the same recipe: `single` is one
            network of model `baseline` for each task, `baseline` is one such network of all tasks.
        train: All settings of the trainings, except model and network.
        seeds: Every network is trained once with each of them; empty is `train.seed` alone.
        also: Labelled data sets on which every float network is scored too, as `eval --data` takes
            them: `synthetic_shifted:45`.
        baseline: The model of the networks that delta_m is measured against.
        entries: The networks, by name.
    """

    backbone: str
    reference: Literal["single", "baseline"] = "single"
    train: TrainConfig
    seeds: tuple[Seed, ...] = ()
    also: tuple[str, ...] = ()
    baseline: Entry = Entry(model="baseline")
    entries: dict[str, Entry] = Field(min_length=1)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds {list(seeds)}: expected each one once")
        return seeds

    @model_validator(mode="after")
    def _entries_fit(self) -> ZooConfig:
        # The settings of every network are checked before the first one trains.
        for name in self.entries:
            if name == "baseline" or name.startswith(SINGLE):
                raise ValueError(
                    f"entry {name!r}: that name is kept for the networks compared with"
                )
            try:
                self.settings(name)
            except ConfigError as error:
                raise ConfigError(f"entries.{name}: {error}") from None
        return self

    def choose(self, names: Sequence[str]) -> ZooConfig:
        """The same zoo with only the entries `names`, in that order; no names keep all entries.

        Raises:
            ConfigError: There is no such entry.
        """
        for name in names:
            if name not in self.entries:
                raise ConfigError(unknown("zoo entry", name, self.entries))
        entries = {name: self.entries[name] for name in names} if names else self.entries
        return self.model_copy(update={"entries": entries})

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings, at least one."""
        return self.seeds or (self.train.seed,)

    def run_name(self, name: str, seed: int) -> str:
        """The name of a training, which is its folder in that of the zoo.

        That of `train.seed` is the network's name, so that more seeds can be added later.
        """
        return name if seed == self.train.seed else f"{name}/seed-{seed}"

    def trainings(self) -> dict[str, TrainConfig]:
        """How every network is trained with every seed, by the name of the training.

        They are in order of the seeds. For each seed, the networks that others are compared with
        come first.
        """
        networks = {**self.references(), **{name: self.settings(name) for name in self.entries}}
        return {
            self.run_name(name, seed): settings.model_copy(update={"seed": seed})
            for seed in self.all_seeds
            for name, settings in networks.items()
        }

    def references(self) -> dict[str, TrainConfig]:
        """How the networks that delta_m is measured against are trained, by name."""
        if self.reference == "baseline":
            return {"baseline": self._trained_as(self.baseline)}
        multi = self._trained_as(self.baseline)
        return {f"{SINGLE}{t}": multi.model_copy(update={"tasks": (t,)}) for t in self.train.tasks}

    def settings(self, name: str) -> TrainConfig:
        """How entry `name` is trained.

        Raises:
            ConfigError: Its settings do not fit its model.
        """
        return self._trained_as(self.entries[name])

    def backbone_of(self, name: str) -> str:
        """The timm name of the backbone of entry `name`."""
        return str(self.settings(name).network["backbone"])

    def _trained_as(self, entry: Entry) -> TrainConfig:
        models.find(entry.model)
        network = {"backbone": self.backbone} | entry.network
        network_config(entry.model, network, (self.train.height, self.train.width))
        for task in entry.loss_weights:
            if task not in self.train.tasks:
                raise ConfigError("loss_weights: " + unknown("task", task, self.train.tasks))
        own = {
            "model": entry.model,
            "network": network,
            "loss_weights": self.train.loss_weights | entry.loss_weights,
            "balance": entry.balance or self.train.balance,
            "steps": entry.steps or self.train.steps,
        }
        return self.train.model_copy(update=own)


def zoos() -> list[str]:
    """Names of the zoos in the package."""
    return sorted(path.stem for path in (PRESETS / "zoo").glob("*.yaml"))


def zoo_file(name: str) -> Path:
    """The config file of zoo `name`, or `name` itself where it is a path to a YAML file.

    Raises:
        ConfigError: There is neither.
    """
    if name in zoos():
        return PRESETS / "zoo" / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    raise ConfigError(unknown("zoo", name, zoos()) + " A path to a YAML file also does.")
