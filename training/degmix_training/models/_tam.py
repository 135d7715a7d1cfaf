"""Distillation between tasks (TAM), used in training and dropped for inference.

After the public code of Liang et al., "M3ViT", NeurIPS 2022 (arXiv 2210.14793).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.models._network import resize


class Distillation(nn.Module):
    """Distillation between tasks at one level (TAM), in training only.

    A map over all tasks' features gives each task its share of the image. A small encoder and
    decoder turns that share into an attention. The side logits are trained with the task's loss.
    """

    def __init__(self, width: int, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        half, quarter = max(1, width // 2), max(1, width // 4)
        self.first = (len(tasks) + 1) // 2
        self.balance = nn.Conv2d(width * len(tasks), width, 3, padding=1)
        self.attend = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Conv2d(width, half, 3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(half, quarter, 3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.ConvTranspose2d(quarter, half, 4, stride=2, padding=1),
                    nn.ReLU(),
                    nn.ConvTranspose2d(half, width, 4, stride=2, padding=1),
                )
                for task in tasks
            }
        )
        self.side = nn.ModuleDict(
            {t: nn.Conv2d(width, s.num_channels, 1) for t, s in tasks.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map features `{task: (N, C, h, w)}` to side logits `{task: (N, num_channels, h, w)}`."""
        share = self.balance(torch.cat(list(features.values()), dim=1)).sigmoid()
        side = {}
        for index, (task, x) in enumerate(features.items()):
            mine = x * (share if index < self.first else 1 - share)
            attention = resize(self.attend[task](mine), x.shape[-2:]).sigmoid()
            side[task] = self.side[task](x * (1 + attention))
        return side
