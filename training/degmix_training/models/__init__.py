"""Models, one file each: `Model(config, tasks)` and its `Config`.

A model maps `(N, 3, H, W)` normalised images to `{task: logits (N, C, H, W)}` and treats every row
of a batch alone.
"""

from __future__ import annotations

from types import ModuleType

from degmix_edge import registry


def names() -> list[str]:
    """Names of all models."""
    return registry.names(__name__)


def find(name: str) -> ModuleType:
    """The module of model `name`, which has `Model` and `Config`.

    Raises:
        ConfigError: There is no such model; the message has the nearest name.
    """
    return registry.find(__name__, name)
