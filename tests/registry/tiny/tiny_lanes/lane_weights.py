"""Weights of the lane network as its first authors wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from degmix_training import models
from degmix_training.authors import Imported
from degmix_training.config import network_config
from degmix_training.pretrained import Fate
from torch import Tensor

from degmix_edge import tasks

KEYS = "marking.weight and marking.bias"


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of the lane network."""
    return set(tensors) == {"marking.weight", "marking.bias"}


def read(
    path: Path,
    tensors: Mapping[str, Tensor],
    classes: Mapping[str, tuple[str, ...]] | None,
    settings: Mapping[str, Any],
) -> Imported:
    """The network that the weights describe."""
    config = {"kernel": tensors["marking.weight"].shape[-1], **settings}
    specs = {"lane": tasks.find("lane").spec()}
    network = models.find("lane_net").Model(network_config("lane_net", config), specs)
    network.load_state_dict(
        {key.replace("marking", "heads.lane"): tensor for key, tensor in tensors.items()}
    )
    fates = [Fate(key, key.replace("marking", "heads.lane")) for key in tensors]
    return Imported("lane_net", network.eval(), config, specs, fates, "lanes")
