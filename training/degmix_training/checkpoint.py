"""Checkpoints: one safetensors file whose header says everything that is needed to use it.

No pickle: a file that is not safetensors is refused, whatever its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from degmix_edge.config import Settings
from degmix_edge.errors import CheckpointError, DegmixError
from degmix_edge.registry import unknown
from degmix_edge.tasks import TaskSpec
from degmix_training import models
from degmix_training._files import whole_file
from degmix_training.config import TrainConfig, network_config

FORMAT = "degmix-checkpoint-1"
WEIGHTS = Path(__file__).parent / "weights"


class Score(Settings):
    """One task's result on the validation split, beside that of the best constant prediction."""

    # A task without a valid label scores nan.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    metric: str
    unit: str
    value: float
    constant: float


class Card(Settings):
    """What the header of a checkpoint holds.

    Attributes:
        model: Entry of `degmix_training.models`.
        tasks: The tasks in the model's order, with classes.
        height, width: Input size in pixels that it was trained at.
        config: The whole training config.
        scores: By task, on the validation split.
        commit: The project's git commit, or `unknown`.
    """

    model: str
    tasks: tuple[TaskSpec, ...]
    height: int
    width: int
    config: TrainConfig
    scores: dict[str, Score]
    step: int
    seed: int
    commit: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the network in eval mode, its card, and the file's SHA-256."""

    network: nn.Module
    card: Card
    sha256: str
    path: Path

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        """Task specs by name, in the model's order."""
        return {spec.name: spec for spec in self.card.tasks}


def build(card: Card) -> nn.Module:
    """The untrained network that a card describes."""
    config = network_config(card.model, card.config.network, (card.height, card.width))
    return models.find(card.model).Model(config, {spec.name: spec for spec in card.tasks})


def save(path: Path, state: Mapping[str, torch.Tensor], card: Card) -> None:
    """Write atomically: a reader sees the old file or the new one.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    header = {"format": FORMAT, "card": card.model_dump_json()}
    # Shared or strided tensors are copied: safetensors stores each on its own.
    tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
    with whole_file(path) as part:
        save_file(tensors, part, metadata=header)


def shipped() -> dict[str, Path]:
    """Checkpoints that come with the package, by their short name."""
    return {path.name.split("-")[0]: path for path in sorted(WEIGHTS.glob("*.safetensors"))}


def locate(name: str) -> Path:
    """The path of a checkpoint given as a file or as the short name of a shipped one.

    Raises:
        CheckpointError: There is neither.
    """
    have = shipped()
    if name in have:
        return have[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix or path.parent != Path("."):
        raise CheckpointError(f"{path}: no such checkpoint file")
    raise CheckpointError(
        unknown("checkpoint", name, have) + " A path to a .safetensors also does."
    )


def read_card(path: Path) -> Card:
    """The card alone, without reading weights.

    Raises:
        CheckpointError: No safetensors file, or not one that `degmix-edge train` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors checkpoint ({error}); expected a file written by "
            f"`degmix-edge train`"
        ) from None
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: its header says format {header.get('format')!r}, expected {FORMAT!r}: "
            "these are "
            f"weights of something else. Expected a file written by `degmix-edge train`"
        )
    try:
        return Card.model_validate(json.loads(header["card"]))
    except (ValidationError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its card does not fit this version: {error}") from None


def load(path: Path) -> Checkpoint:
    """Build the network that the card describes and load every weight, strictly.

    Raises:
        CheckpointError: As `read_card`; or the weights are not those of the card's model.
    """
    card = read_card(path)
    try:
        network = build(card)
    except DegmixError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    _check_keys(path, card.model, network.state_dict(), state)
    network.load_state_dict(state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(network.eval().requires_grad_(False), card, digest, path)


def _check_keys(
    path: Path, model: str, want: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]
) -> None:
    missing = [key for key in want if key not in got]
    extra = [key for key in got if key not in want]
    shapes = [
        f"{key} {tuple(got[key].shape)}, expected {tuple(want[key].shape)}"
        for key in want
        if key in got and got[key].shape != want[key].shape
    ]
    if missing or extra or shapes:
        first = (
            shapes + [f"missing {key}" for key in missing] + [f"extra {key}" for key in extra]
        )[:3]
        raise CheckpointError(
            f"{path}: weights are not those of model {model!r}: {len(missing)} missing, "
            f"{len(extra)} "
            f"extra, {len(shapes)} of another shape (first: {'; '.join(first)})"
        )
