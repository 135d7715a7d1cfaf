"""Networks with random weights, to measure size, speed and exactness without training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from degmix_edge.tasks import TaskSpec
from degmix_training import models
from degmix_training.checkpoint import Card, Checkpoint
from degmix_training.config import TrainConfig, network_config


def untrained(
    model: str,
    network: Mapping[str, Any],
    tasks: Mapping[str, TaskSpec],
    size: tuple[int, int],
    seed: int = 0,
) -> Checkpoint:
    """Return `model` with random weights, in eval mode, as a checkpoint without a file.

    Every parameter is moved off its initial value, and batch norms get random statistics, because
    a wrong fold can be exact for zeros and ones.

    Args:
        model: Entry of `degmix_training.models`.
        network: Its settings.
        tasks: Its tasks.
        size: Height and width of its input.
        seed: Seed of the weights; exports carry the file name `random-<seed>`.

    Raises:
        ConfigError: There is no such model, or a setting is not valid.
    """
    torch.manual_seed(seed)
    settings = network_config(model, dict(network), size)
    module = models.find(model).Model(settings, tasks).eval()
    module.begin(())
    _disturb(module, torch.Generator().manual_seed(seed))
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    height, width = size
    config = TrainConfig(
        model=model,
        network=dict(network),
        tasks=tuple(tasks),
        height=height,
        width=width,
        seed=seed,
    )
    card = Card(
        model=model,
        tasks=tuple(tasks.values()),
        height=height,
        width=width,
        config=config,
        scores={},
        step=0,
        seed=seed,
        commit="none",
        versions={},
    )
    module.requires_grad_(False)
    return Checkpoint(module, card, digest.hexdigest(), Path(f"random-{seed}"))


def _disturb(network: nn.Module, generator: torch.Generator) -> None:
    """Move every parameter and give batch norms random statistics, in place."""
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter.abs().mean().clamp(min=0.02)
            parameter.add_(0.3 * spread * torch.randn(parameter.shape, generator=generator))
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                count = module.num_features
                module.running_mean.copy_(0.2 * torch.randn(count, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(count, generator=generator))
