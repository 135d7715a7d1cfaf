"""Checkpoints: one safetensors file whose header holds everything that is needed to use it.

Pickle is never read: a file that is not safetensors is refused, whatever its name.
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
from degmix_edge.files import hint_of, whole_file
from degmix_edge.quant.trained import Trained
from degmix_edge.registry import unknown
from degmix_edge.tasks import TaskSpec
from degmix_training import models
from degmix_training.config import TrainConfig, network_config

FORMAT = "degmix-checkpoint-2"
FIRST_FORMAT = "degmix-checkpoint-1"
FIRST_SETTINGS: dict[str, dict[str, Any]] = {
    "padnet": {"backbone": "hrnet_w18"},
    "mlore": {"activation": "relu", "plain": {}},
    "m3vit": {"shared_norm": True},
}
"""What a network of the first format has where its card is silent, because defaults have changed.

M3ViT's distillation was another module then. Only training needs it, so it is not read.
"""
FIRST_PARTIAL = {"structured": True, "score": "snip"}
WEIGHTS = Path(__file__).parent / "weights"


class Score(Settings):
    """One task's result on the validation split, and the best constant prediction's."""

    # The score of a task without a valid label is NaN.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    metric: str
    unit: str
    value: float
    constant: float


class Card(Settings):
    """The contents of a checkpoint's header.

    Attributes:
        model: Entry of `degmix_training.models`.
        tasks: The tasks in the model's order, with classes.
        height, width: Input size in pixels at which the network was trained.
        config: The whole training config.
        scores: Results on the validation split, by task.
        commit: The project's git commit, or `unknown`.
        amax: The magnitude that maps to 127, by tensor of the deployed graph, of a network that was
            trained for INT8.
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
    amax: dict[str, float] = {}

    @property
    def trained(self) -> Trained | None:
        """What the network was trained for; None for a float training."""
        qat = self.config.qat
        return None if qat is None else Trained(recipe=qat.recipe, amax=self.amax)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the network in eval mode, its card, and the file's SHA-256."""

    network: nn.Module
    card: Card
    sha256: str
    path: Path

    @property
    def tasks(self) -> dict[str, TaskSpec]:
        """The task specs by name, in the model's order."""
        return {spec.name: spec for spec in self.card.tasks}


def build(card: Card) -> nn.Module:
    """Build the network that a card describes, with untrained weights.

    A network that was trained for INT8 has the folds of its engine.
    """
    config = network_config(card.model, card.config.network, (card.height, card.width))
    network: Any = models.find(card.model).Model(config, {spec.name: spec for spec in card.tasks})
    qat = card.config.qat
    return network if qat is None else network.fold_for_inference(qat.folds)


def save(path: Path, state: Mapping[str, torch.Tensor], card: Card) -> None:
    """Write a checkpoint atomically: a reader sees the old file or the new one.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    header = {"format": FORMAT, "card": card.model_dump_json()}
    # Shared or strided tensors are copied, because safetensors stores each tensor separately.
    tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
    with whole_file(path) as part:
        save_file(tensors, part, metadata=header)


def shipped() -> dict[str, Path]:
    """Return the checkpoints that come with the package, by their short name."""
    return {path.name.split("-")[0]: path for path in sorted(WEIGHTS.glob("*.safetensors"))}


def locate(name: str) -> Path:
    """Return the path of a checkpoint, given its path or the short name of a shipped one.

    Raises:
        CheckpointError: There is no such file and no shipped checkpoint of that name.
    """
    have = shipped()
    if name in have:
        return have[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, expected a checkpoint, a .safetensors file")
    if path.suffix or path.parent != Path("."):
        hint = " A checkpoint is a .safetensors file."
        if path.suffix == ".safetensors":
            hint = hint_of(path)
        raise CheckpointError(f"{path}: no such checkpoint file.{hint}")
    raise CheckpointError(
        unknown("checkpoint", name, have) + " The path of a .safetensors file also works."
    )


def read_card(path: Path) -> Card:
    """Read the card alone, without the weights.

    Raises:
        CheckpointError: The file is not safetensors, or `degmix-edge train` did not write it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors checkpoint ({error}); expected a file written by "
            f"`degmix-edge train`"
        ) from None
    if header.get("format") not in (FORMAT, FIRST_FORMAT):
        raise CheckpointError(
            f"{path}: its header says format {header.get('format')!r}, expected {FORMAT!r}: "
            f"these are weights of something else. Expected a file written by `degmix-edge train`"
        )
    try:
        card = Card.model_validate(json.loads(header["card"]))
        return card if header["format"] == FORMAT else _of_first_format(card)
    except (ValidationError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its card does not fit this version: {error}") from None


def _of_first_format(card: Card) -> Card:
    """Write into a card of the first format the settings that were defaults then."""
    network = {**FIRST_SETTINGS.get(card.model, {}), **card.config.network}
    if str(network.get("backbone", "")).startswith("hrnet"):
        network.setdefault("hrnet_fuse", "nearest")
    if isinstance(network.get("partially_dynamic"), dict):
        network["partially_dynamic"] = {**FIRST_PARTIAL, **network["partially_dynamic"]}
    if card.model == "m3vit":
        network["distil"] = False
    config = card.config.model_copy(update={"network": network})
    return card.model_copy(update={"config": config})


def load(path: Path) -> Checkpoint:
    """Build the network that the card describes and load every weight, strictly.

    Raises:
        CheckpointError: `read_card` refuses the file, or the weights do not fit the card's model.
    """
    card = read_card(path)
    try:
        network = build(card)
    except DegmixError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if (file.metadata() or {})["format"] == FIRST_FORMAT and card.model == "m3vit":
            state = {k: v for k, v in state.items() if not k.startswith("distillations.")}
    _check_keys(path, card.model, network.state_dict(), state)
    network.load_state_dict(state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(network.eval().requires_grad_(False), card, digest, path)


def _check_keys(
    path: Path, model: str, expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]
) -> None:
    missing = [key for key in expected if key not in got]
    extra = [key for key in got if key not in expected]
    shapes = [
        f"{key} {tuple(got[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in got and got[key].shape != expected[key].shape
    ]
    if missing or extra or shapes:
        first = (
            shapes + [f"missing {key}" for key in missing] + [f"extra {key}" for key in extra]
        )[:3]
        raise CheckpointError(
            f"{path}: weights are not those of model {model!r}: {len(missing)} missing, "
            f"{len(extra)} extra, {len(shapes)} of another shape (first: {'; '.join(first)})"
        )
