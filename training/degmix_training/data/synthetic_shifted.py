"""Varied scenes that training never resembles: other cameras, lights and clutter, and corruptions.

Each picture has one corruption of ImageNet-C at one of its five levels. Kinds and levels take
turns, so that 45 scenes in sequence have each once. The set is for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from degmix_training.data import synthetic_varied
from degmix_training.data._sample import Sample
from degmix_training.data._varied.corruptions import LEVELS, SEVERITIES, corrupt
from degmix_training.data._varied.places import Style
from degmix_training.data._varied.render import render
from degmix_training.data._varied.textures import digest

SHIFTED = Style(
    view_deg=(30.0, 95.0),
    pitch=(-0.35, 0.75),
    roll=0.12,
    clutter=1.8,
    tint=0.45,
    chances=(0.4, 0.2, 0.15, 0.25),
)
FIRST_SEED = {"val": 3_000_000, "test": 4_000_000}


class DataSet(synthetic_varied.DataSet):
    """Shifted scenes rendered at `size`, kept on disk; there is no training split."""

    name = "synthetic_shifted"
    title = "shifted synthetic scenes"
    first_seed = FIRST_SEED
    default_count = MappingProxyType({"val": 90, "test": 90})

    def renderer(self) -> tuple[Callable[..., Sample], str]:
        """Return what renders a varied scene and corrupts its picture, and the name as there."""
        return sample, f"{self.name}-{digest()}"


def sample(seed: int, height: int, width: int) -> Sample:
    """Scene `seed` as a sample, whose name says its corruption and level."""
    scene = render(seed, height, width, SHIFTED)
    kind = tuple(LEVELS)[seed % len(LEVELS)]
    level = seed // len(LEVELS) % SEVERITIES + 1
    image = corrupt(scene.image, kind, level, np.random.default_rng((seed, 3)))
    return Sample(f"shifted scene {seed}, {kind} {level}", image, scene.labels)
