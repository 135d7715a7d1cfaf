"""What a zoo will do, checked before the first network trains."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge import config
from degmix_edge.errors import CheckpointError, ConfigError, OutputError
from degmix_edge.files import write_file
from degmix_edge.registry import unknown
from degmix_edge.workflows.training import data_changes

if TYPE_CHECKING:
    from degmix_training.checkpoint import Card
    from degmix_training.config import TrainConfig
    from degmix_training.zoo import ZooConfig

SHARED = {"backbone", "reference", "train", "baseline"}
"""Settings that all networks of a zoo share; networks of other ones are not comparable."""


def load_zoo(
    name: str | Path, models: Sequence[str], overrides: Sequence[str], data: str | None
) -> ZooConfig:
    """The settings of a zoo, whose networks can all be made and trained.

    Args:
        name: The name of a zoo, or a path to a YAML file.
        models: Entries to keep; empty keeps all.
        overrides: Changes of settings, as in `train.steps=100`.
        data: A data set and its folder, as in `nyud:NYUDv2`.

    Raises:
        ConfigError: There is no such zoo or entry, or a setting does not fit.
    """
    from degmix_training.zoo import ZooConfig, zoo_file

    changes = list(overrides)
    if data:
        changes += data_changes(data, overrides, "train.")
    loaded: ZooConfig = config.load(ZooConfig, zoo_file(str(name)), changes)
    chosen = loaded.choose(models)
    for settings in trainings(chosen).values():
        settings.task_specs()
        _try_to_make(settings)
    return chosen


def trainings(zoo: ZooConfig) -> dict[str, TrainConfig]:
    """How every network is trained, by name: those that are compared with come first."""
    return {**zoo.references(), **{name: zoo.settings(name) for name in zoo.entries}}


def check_given(zoo: ZooConfig, checkpoints: Mapping[str, str | Path]) -> dict[str, Path]:
    """The paths of checkpoints that take the place of a training, by entry.

    Raises:
        ConfigError: There is no such entry.
        CheckpointError: A file is missing, damaged, or of another model, size, data set or tasks.
    """
    from degmix_training.checkpoint import locate, read_card

    paths = {}
    for name, file in checkpoints.items():
        if name not in zoo.entries:
            raise ConfigError("--checkpoint: " + unknown("zoo entry", name, zoo.entries))
        paths[name] = locate(str(file))
        _check_card(name, paths[name], read_card(paths[name]), zoo.settings(name))
    return paths


def claim_folder(zoo: ZooConfig, out: Path, *, force: bool) -> None:
    """Write the settings to zoo.yaml in the folder `out`.

    Entries that an earlier zoo of the same settings has there stay in zoo.yaml.

    Args:
        zoo: The settings.
        out: The folder.
        force: Remove what a zoo of other settings left there.

    Raises:
        OutputError: It holds a zoo of other settings, and `force` is not given.
    """
    path, text = out / "zoo.yaml", config.dump(zoo)
    if path.exists() and not force:
        before = config.load(type(zoo), path)
        changed = _changes(before, zoo)
        if changed:
            raise OutputError(
                f"{out}: holds a zoo with other settings ({', '.join(sorted(changed))}): networks "
                f"would not be comparable; give another --out, or --force to start anew"
            )
        text = config.dump(zoo.model_copy(update={"entries": {**before.entries, **zoo.entries}}))
    elif path.exists():
        for folder in out.iterdir():
            if (folder / "run").is_dir():
                shutil.rmtree(folder)
    write_file(path, text.encode(), force=True)


def _changes(before: ZooConfig, zoo: ZooConfig) -> list[str]:
    now, then = (z.model_dump(mode="json", include=SHARED) for z in (zoo, before))
    changed = [key for key in SHARED if now[key] != then[key]]
    known = before.entries
    return changed + [n for n, entry in zoo.entries.items() if n in known and known[n] != entry]


def _try_to_make(settings: TrainConfig) -> None:
    """Make the network without memory for its weights.

    Raises:
        ConfigError: It cannot be made of these settings.
    """
    import torch
    from degmix_training import models
    from degmix_training.config import network_config

    size = (settings.height, settings.width)
    with torch.device("meta"):
        values = network_config(settings.model, settings.network, size)
        models.find(settings.model).Model(values, settings.task_specs())


def _check_card(name: str, path: Path, card: Card, settings: TrainConfig) -> None:
    for what, got, expected in (
        ("model", card.model, settings.model),
        ("size", f"{card.height}x{card.width}", f"{settings.height}x{settings.width}"),
        ("tasks", [task.name for task in card.tasks], list(settings.tasks)),
        ("data set", card.config.data.name, settings.data.name),
    ):
        if got != expected:
            raise CheckpointError(
                f"--checkpoint {name}: {path} is of {what} {got}, entry {name!r} has {expected}; "
                f"give the checkpoint of that entry, or leave it out to train one"
            )


def named_files(texts: Iterable[str]) -> dict[str, str]:
    """`NAME=FILE` texts as files by name.

    Raises:
        ConfigError: A text has no name or no file.
    """
    files = {}
    for text in texts:
        name, separator, file = text.partition("=")
        if not separator or not file:
            raise ConfigError(f"--checkpoint {text}: expected NAME=FILE")
        files[name] = file
    return files
