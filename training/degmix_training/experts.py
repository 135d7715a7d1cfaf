"""Remove experts that tasks hardly use.

This is lossy, unlike a fold, because nearly every expert of an M3ViT is chosen by some token of an
image. The use of each expert is measured on images. The metrics then show what the removal costs,
and a few epochs of training may recover it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from degmix_edge.errors import ConfigError
from degmix_training.checkpoint import Checkpoint
from degmix_training.models._moe import Mixture
from degmix_training.models.m3vit import Model

Shares = dict[str, Tensor]
"""For each mixture, the share of each task's gates that goes to each expert `(T, E)`.

Rows sum to one.
"""


def shares(
    checkpoint: Checkpoint,
    images: Iterable[Tensor],
    advance: Callable[[int], None] = lambda n: None,
) -> Shares:
    """Measure how much each task uses each expert, on normalised images `(1, 3, H, W)`.

    Raises:
        ConfigError: The network has no experts for tokens, or was pruned before.
    """
    network = _model(checkpoint)
    sums: Shares = {}
    hooks = []
    for name, mixture in network.backbone.mixtures.items():

        def add(module: Mixture, inputs: Any, probabilities: Tensor, name: str = name) -> None:
            gates = network.backbone.mixtures[name].gates(probabilities).sum((1, 2))
            sums[name] = sums.get(name, torch.zeros_like(gates)) + gates

        hooks.append(mixture.router.register_forward_hook(add))
    try:
        with torch.inference_mode():
            for image in images:
                network(image)
                advance(1)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / total.sum(-1, keepdim=True) for name, total in sums.items()}


def prune(checkpoint: Checkpoint, found: Shares, below: float) -> Checkpoint:
    """Return the checkpoint without experts whose share for a task is less than `below`.

    An expert that only some tasks use is closed to the others; an expert that no task uses is
    removed. Each task always keeps its `top_k` most used experts.
    """
    network = _model(checkpoint)
    config = network.config
    allowed = {name: _allowed(share, below, config.top_k) for name, share in found.items()}
    remaining = {name: open_.any(0).nonzero().squeeze(1) for name, open_ in allowed.items()}
    values = {
        **checkpoint.card.config.network,
        "kept_experts": [len(k) for k in remaining.values()],
    }
    size = {"height": checkpoint.card.height, "width": checkpoint.card.width}
    smaller = Model(type(config).model_validate({**size, **values}), checkpoint.tasks)
    state = network.state_dict()
    for name, index in remaining.items():
        prefix = f"backbone.mixtures.{name}."
        experts = network.backbone.mixtures[name].experts
        for key in ("expand.weight", "expand.bias"):
            state[prefix + key] = (
                state[prefix + key].unflatten(0, (experts, -1))[index].flatten(0, 1)
            )
        second = state[prefix + "contract.weight"].unflatten(1, (experts, -1))
        state[prefix + "contract.weight"] = second[:, index].flatten(1)
        state[prefix + "bias"] = state[prefix + "bias"][index]
        state[prefix + "usage"] = state[prefix + "usage"][:, index]
        state[prefix + "kept"] = index
        state[prefix + "allowed"] = allowed[name][:, index].float()
    smaller.load_state_dict(state)
    settings = checkpoint.card.config.model_copy(update={"network": values})
    card = checkpoint.card.model_copy(update={"config": settings, "scores": {}})
    return replace(checkpoint, network=smaller.eval().requires_grad_(False), card=card)


def _allowed(share: Tensor, below: float, top_k: int) -> Tensor:
    most = torch.zeros_like(share).scatter(-1, share.topk(top_k, dim=-1).indices, 1.0)
    return (share >= below) | (most > 0)


def _model(checkpoint: Checkpoint) -> Model:
    network = checkpoint.network
    if not isinstance(network, Model):
        raise ConfigError(
            f"{checkpoint.path}: model {checkpoint.card.model!r} has no experts of tokens; "
            f"only m3vit's experts can be pruned"
        )
    if network.config.kept_experts is not None:
        raise ConfigError(
            f"{checkpoint.path}: experts were pruned already (left: "
            f"{', '.join(map(str, network.config.kept_experts))}); prune the original checkpoint"
        )
    return network
