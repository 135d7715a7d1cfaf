"""DeMTG: DeMT with two mixer blocks a task, two heads, and a gate that every task shares.

Xu et al., arXiv 2308.05721 v1 (2023): "Deformable Mixer Transformer with Gating". The published
figures of "DeGMix" with Swin are this network's.
"""

from __future__ import annotations

from collections.abc import Mapping

from degmix_edge.tasks import TaskSpec
from degmix_training.models._decoder import Decoder, DecoderConfig
from degmix_training.models._folded import PIXEL_FOLDS
from degmix_training.models.demt import PixelQuery


class Config(DecoderConfig):
    """Sizes of DeMTG. The defaults are the published ones, but for the backbone."""


class Model(Decoder):
    """DeMTG for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    own_folds = PIXEL_FOLDS

    def __init__(
        self, config: DecoderConfig, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__(config, tasks, PixelQuery, patch=1, gated=True, pretrained=pretrained)
