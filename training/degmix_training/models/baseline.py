"""A head a task on one backbone, and nothing between tasks: the baseline of the field.

With one task it is the single-task network that delta_m is measured against. As the ATRC authors'
code has it: scales resized and concatenated, 3x3 convolution to a quarter of the channels, batch
norm, ReLU, 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings
from degmix_training.models._network import Head, HeadSettings, Network, resize, stack


class Config(BackboneSettings, HeadSettings):
    """Settings of the baseline; `head_channels` None is a quarter of the backbone's sum."""

    head_channels: int | None = Field(None, gt=0)


class Model(Network):
    """`(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.backbone = Backbone.of(config, pretrained=pretrained)
        channels = sum(self.backbone.channels)
        hidden = config.head_channels or max(1, channels // 4)
        self.heads = nn.ModuleDict(
            {
                task: Head(channels, hidden, spec.num_channels, config.partially_dynamic)
                for task, spec in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        stacked = stack(self.backbone(image))
        return {task: resize(head(stacked), image.shape[-2:]) for task, head in self.heads.items()}
