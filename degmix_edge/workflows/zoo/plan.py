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
from degmix_edge.workflows.sources import data_set, labelled
from degmix_edge.workflows.training import data_changes

if TYPE_CHECKING:
    from degmix_training.checkpoint import Card
    from degmix_training.config import TrainConfig
    from degmix_training.zoo import ZooConfig

Seeds = int | str | Sequence[int]
"""How many seeds, or which: see `parse_seeds`."""
SHARED = {"backbone", "reference", "train", "baseline"}
"""Settings that all networks of a zoo share; networks of other ones are not comparable."""


def load_zoo(
    name: str | Path,
    models: Sequence[str],
    overrides: Sequence[str],
    data: str | None,
    seeds: Seeds | None,
) -> ZooConfig:
    """The settings of a zoo, whose networks can all be made and trained.

    Args:
        name: The name of a zoo, or a path to a YAML file.
        models: Entries to keep; empty keeps all.
        overrides: Changes of settings, as in `train.steps=100`.
        data: A data set and its folder, as in `nyud:NYUDv2`.
        seeds: Seeds of the trainings, as `zoo` takes them; None are those of the zoo.

    Raises:
        ConfigError: There is no such zoo or entry, or a setting does not fit.
    """
    from degmix_training.zoo import ZooConfig, zoo_file

    changes = list(overrides)
    if data:
        changes += data_changes(data, overrides, "train.")
    loaded: ZooConfig = config.load(ZooConfig, zoo_file(str(name)), changes)
    chosen = loaded.choose(models)
    for settings in chosen.model_copy(update={"seeds": ()}).trainings().values():
        settings.task_specs()
        _try_to_make(settings)
    for source in chosen.also:
        found, _ = data_set(source, (chosen.train.height, chosen.train.width))
        _, problems = labelled(found, chosen.train.task_specs())
        if problems:
            raise ConfigError(f"also: {source}: {problems[0]}; train on data of the same classes")
    if seeds is None:
        return chosen
    return chosen.model_copy(update={"seeds": parse_seeds(seeds, chosen.train.seed)})


def parse_seeds(seeds: Seeds, first: int) -> tuple[int, ...]:
    """Return seeds, given as they are, as a text such as `0,7`, or as a number of them.

    Args:
        seeds: A number counts up from `first`; a text with a comma has the seeds themselves.
        first: The seed of the zoo's settings.

    Raises:
        ConfigError: There is no seed, a negative one, or one twice.
    """
    if isinstance(seeds, str):
        parts = [part.strip() for part in seeds.split(",") if part.strip()]
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(f"seeds {seeds!r}: expected a number of seeds, or seeds as in 0,1,2")
        numbers = [int(part) for part in parts]
        seeds = numbers[0] if parts and "," not in seeds else numbers
    if isinstance(seeds, int):
        seeds = range(first, first + seeds)
    chosen = tuple(seeds)
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"seeds: got {', '.join(map(str, chosen)) or 'none'}, expected at least one, each once "
            f"and none below 0"
        )
    return chosen


def check_given(zoo: ZooConfig, checkpoints: Mapping[str, str | Path]) -> dict[str, Path]:
    """The paths of checkpoints that take the place of a training, by the training's name.

    Raises:
        ConfigError: There is no such entry, or several seeds need as many checkpoints.
        CheckpointError: A file is missing, damaged, or of another model, size, data set or tasks.
    """
    from degmix_training.checkpoint import locate, read_card

    if checkpoints and len(zoo.all_seeds) > 1:
        raise ConfigError(
            f"--checkpoint: takes the place of one training, got {len(zoo.all_seeds)} seeds; give "
            "one seed, or leave --checkpoint out"
        )
    paths = {}
    for name, file in checkpoints.items():
        if name not in zoo.entries:
            raise ConfigError("--checkpoint: " + unknown("zoo entry", name, zoo.entries))
        path = locate(str(file))
        _check_card(name, path, read_card(path), zoo.settings(name))
        paths[zoo.run_name(name, zoo.all_seeds[0])] = path
    return paths


def claim_folder(zoo: ZooConfig, out: Path, *, force: bool) -> None:
    """Write the settings to zoo.yaml in the folder `out`.

    Entries and seeds that an earlier zoo of the same settings has there stay in zoo.yaml.

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
        seeds = tuple(dict.fromkeys((*before.all_seeds, *zoo.all_seeds)))
        entries = {**before.entries, **zoo.entries}
        text = config.dump(zoo.model_copy(update={"entries": entries, "seeds": seeds}))
    elif path.exists():
        for folder in out.iterdir():
            if (folder / "run").is_dir() or any(folder.glob("seed-*/run")):
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
