"""One convolution a task."""

from __future__ import annotations

from collections.abc import Mapping

from degmix_training.models._network import Network
from torch import Tensor, nn

from degmix_edge.config import Settings
from degmix_edge.tasks import TaskSpec


class Config(Settings):
    """Settings of the network."""

    kernel: int = 3


class Model(Network):
    """`(N, 3, H, W)` normalised images to `{task: (N, C, H, W) logits}`."""

    def __init__(self, config: Config, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                name: nn.Conv2d(3, spec.num_channels, config.kernel, padding=config.kernel // 2)
                for name, spec in tasks.items()
            }
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: head(images) for name, head in self.heads.items()}
