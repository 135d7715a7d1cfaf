"""Synthetic scenes that are made to transfer: varied rooms, tables, portraits, views outdoors.

Textures come from scikit-image's photographs where it is installed. Materials, lights, exposure,
blur, noise and JPEG are random. Conventions of the labels are those of the plain `synthetic`
scenes, whose ten classes come first. Depth is labelled up to 20 m; the sky has no depth and no
normals.

Every fourth training scene is a plain one, so that a network keeps its accuracy on those.
"""

from __future__ import annotations

from collections.abc import Callable

from degmix_training.data import synthetic
from degmix_training.data._layout import PART_CLASSES
from degmix_training.data._sample import Sample
from degmix_training.data._varied.render import render
from degmix_training.data._varied.stage import SEMSEG_CLASSES
from degmix_training.data._varied.textures import digest

CLASSES: dict[str, tuple[str, ...]] = {
    **synthetic.CLASSES,
    "semseg": SEMSEG_CLASSES,
    "human_parts": PART_CLASSES,
}
PLAIN_EVERY = 4


class DataSet(synthetic.DataSet):
    """Varied scenes rendered at `size`, kept on disk. Splits have no seed in common."""

    name = "synthetic_varied"
    title = "varied synthetic scenes"
    classes = CLASSES

    def renderer(self) -> tuple[Callable[..., Sample], str]:
        """Return the renderer, and a name that changes with the photographs that are installed."""
        return sample, f"{self.name}-{digest()}"


def sample(seed: int, height: int, width: int) -> Sample:
    """Scene `seed` as a sample; of the training scenes, every fourth is a plain one."""
    if seed < synthetic.FIRST_SEED["val"] and seed % PLAIN_EVERY == 0:
        return synthetic.sample(seed, height, width)
    scene = render(seed, height, width)
    return Sample(f"varied scene {seed}", scene.image, scene.labels)
