"""Distillation between tasks (TAM), used in training and dropped for inference.

After the public code of Liang et al., "M3ViT", NeurIPS 2022 (arXiv 2210.14793).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.models._network import conv_norm_relu


class Distillation(nn.Module):
    """Distillation between tasks at one level (TAM), in training only.

    With f_1 ... f_T the tasks' features, and the first half of the tasks on one side of `B`:

        B = sigmoid(BN(Conv3x3(ReLU(BN(Conv3x3([f_1 ... f_T]))))))
        M = sigmoid(decode(encode(ReLU(BN(Conv3x3([B f_1 / n, ..., (1 - B) f_T / m]))))))
        side_t = Conv1x1(ReLU(BN(Conv3x3([f_1 (1 + M) ... f_T (1 + M)]))))

    where n and m are the numbers of tasks on the two sides: 1 and 1 for two tasks, 1 and 2 for
    three, 2 and 3 for five. One encoder and decoder serves all tasks. The side logits are trained
    with the task's own loss.
    """

    def __init__(self, width: int, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        every = width * len(tasks)
        self.first = max(1, len(tasks) // 2)
        self.share = nn.Sequential(
            *conv_norm_relu(every, width), *conv_norm_relu(width, width)[:2], nn.Sigmoid()
        )
        self.attend = nn.Sequential(
            *conv_norm_relu(every, width),
            *_halve(width),
            *_halve(width),
            *_double(width),
            nn.ReLU(),
            *_double(width),
            nn.Sigmoid(),
        )
        self.side = nn.ModuleDict(
            {
                t: nn.Sequential(*conv_norm_relu(every, width), nn.Conv2d(width, s.num_channels, 1))
                for t, s in tasks.items()
            }
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map features `{task: (N, C, h, w)}` to side logits `{task: (N, num_channels, h, w)}`."""
        given = list(features.values())
        share = self.share(torch.cat(given, dim=1))
        first, second = share / self.first, (1 - share) / (len(given) - self.first)
        shared = [x * (first if i < self.first else second) for i, x in enumerate(given)]
        height, width = given[0].shape[-2:]
        attention = self.attend(torch.cat(shared, dim=1))[..., :height, :width]
        attended = torch.cat([x * (1 + attention) for x in given], dim=1)
        return {task: layers(attended) for task, layers in self.side.items()}


def _halve(width: int) -> list[nn.Module]:
    conv = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def _double(width: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(width, width, 3, 2, padding=1, output_padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width)]
