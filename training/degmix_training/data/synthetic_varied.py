"""Synthetic scenes that are made to transfer: varied rooms, tables, portraits, views outdoors.

Textures come from scikit-image's photographs where it is installed. Materials, lights, exposure,
blur, noise and JPEG are random. Conventions of the labels are those of the plain `synthetic`
scenes, whose ten classes come first. Depth is labelled up to 20 m; the sky has no depth and no
normals.

Every fourth training scene is a plain one, so that a network keeps its accuracy on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_training.data import _base, synthetic
from degmix_training.data._layout import PART_CLASSES
from degmix_training.data._sample import Sample, Samples
from degmix_training.data._store import rendered
from degmix_training.data._varied.render import render
from degmix_training.data._varied.stage import SEMSEG_CLASSES
from degmix_training.data._varied.textures import digest

CLASSES: dict[str, tuple[str, ...]] = {
    **synthetic.CLASSES,
    "semseg": SEMSEG_CLASSES,
    "human_parts": PART_CLASSES,
}
PLAIN_EVERY = 4


class DataSet(_base.DataSet):
    """Varied scenes rendered at `size`, kept on disk. Splits have no seed in common."""

    name = "synthetic_varied"
    title = "varied synthetic scenes"
    classes = CLASSES
    edge_tolerance = 0.011
    default_count = MappingProxyType({"train": 2000, "val": 100, "test": 100})

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def open_split(self, split: str, tasks: Sequence[str], count: int | None = None) -> Samples:
        """`count` scenes of a split; they carry all labels, whatever `tasks` are."""
        if split not in synthetic.FIRST_SEED:
            raise ConfigError(unknown("split", split, synthetic.FIRST_SEED))
        height, width = self.size
        first = synthetic.FIRST_SEED[split]
        seeds = range(first, first + (self.default_count[split] if count is None else count))
        make = partial(sample, height=height, width=width)
        return rendered(f"{self.name}-{digest()}-{split}", make, seeds)


def sample(seed: int, height: int, width: int) -> Sample:
    """Scene `seed` as a sample; of the training scenes, every fourth is a plain one."""
    if seed < synthetic.FIRST_SEED["val"] and seed % PLAIN_EVERY == 0:
        return synthetic.sample(seed, height, width)
    scene = render(seed, height, width)
    return Sample(f"varied scene {seed}", scene.image, scene.labels)
