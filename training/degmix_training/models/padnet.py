"""PAD-Net: initial predictions of several tasks, and features passed between them through gates.

Xu et al., "PAD-Net: Multi-Tasks Guided Prediction-and-Distillation Network", CVPR 2018 (arXiv
1805.04409), distillation module C, in the form that Vandenhende et al. 2021 compare:

    x    = ReLU(BN(Conv1x1(maps, resized and concatenated)))
    F_a  = two bottlenecks of x             a: every task, auxiliary ones too
    initial_a = Conv1x1(F_a)                a prediction under a's loss; in training only
    G_t  = F_t + sum_{a != t} Conv3x3_at(F_a) * sigmoid(Conv3x3_at(F_a))
    logits_t = Conv1x1(two bottlenecks of G_t)

The authors' code was never released. The convolutions of the gates grow with T (T - 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from degmix_edge import tasks as all_tasks
from degmix_edge.errors import ConfigError
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import Backbone, BackboneSettings
from degmix_training.models._network import (
    Head,
    HeadSettings,
    Network,
    conv_norm_relu,
    need_several,
    resize,
    stack,
)


class Config(BackboneSettings, HeadSettings):
    """Sizes of PAD-Net; `width` 256 at stride 4 on HRNet-W18-small-v2 is the compared form.

    The public code calls this backbone "hrnet_w18"; its sizes and weights are those of timm's
    `hrnet_w18_small_v2`.

    Attributes:
        width: Channels of a task's features; bottlenecks are a quarter as wide.
        stride: Where tasks are distilled: 4, or 8 for a quarter of the work.
        auxiliary: Tasks with an initial prediction alone: labelled in training, no output.
    """

    backbone: str = "hrnet_w18_small_v2"
    width: int = Field(256, ge=4)
    stride: Literal[4, 8] = 4
    auxiliary: tuple[str, ...] = ()


class Bottleneck(nn.Module):
    """`(N, C, h, w) -> (N, width, h, w)`: 1x1, 3x3, 1x1, residual (He et al. 2016)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        hidden = width // 4
        self.layers = nn.Sequential(
            *conv_norm_relu(channels, hidden, 1),
            *conv_norm_relu(hidden, hidden),
            *conv_norm_relu(hidden, width, 1)[:2],
        )
        self.project = nn.Sequential()
        if channels != width:
            self.project = nn.Sequential(*conv_norm_relu(channels, width, 1)[:2])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.layers(x) + self.project(x))


class Gate(nn.Module):
    """What another task's features give: `(N, C, h, w) -> (N, C, h, w)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.attention = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.message(features) * self.attention(features).sigmoid()


class Model(Network):
    """PAD-Net for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        need_several("padnet", (*tasks, *config.auxiliary))
        self.auxiliary = {name: _auxiliary(name, tasks) for name in config.auxiliary}
        every = {**tasks, **self.auxiliary}
        width = config.width
        self.backbone = Backbone.of(config, pretrained=pretrained)
        channels = sum(self.backbone.channels)
        self.first = 1 if config.stride == 8 and not self.backbone.is_plain else 0
        self.fuse = nn.Sequential(*conv_norm_relu(channels, channels, 1))
        self.features = nn.ModuleDict(
            {a: nn.Sequential(Bottleneck(channels, width), Bottleneck(width, width)) for a in every}
        )
        self.initial = nn.ModuleDict(
            {a: nn.Conv2d(width, spec.num_channels, 1) for a, spec in every.items()}
        )
        self.distil = nn.ModuleDict(
            {t: nn.ModuleDict({a: Gate(width) for a in every if a != t}) for t in tasks}
        )
        dynamic = config.partially_dynamic
        self.heads = nn.ModuleDict(
            {
                t: nn.Sequential(
                    Bottleneck(width, width),
                    Bottleneck(width, width),
                    nn.Conv2d(width, spec.num_channels, 1)
                    if dynamic is None
                    else Head(width, width, spec.num_channels, dynamic),
                )
                for t, spec in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        size = image.shape[-2:]
        maps = self.backbone(image)
        fine = [resize(m, maps[self.first].shape[-2:]) for m in maps[: self.first]]
        x = self.fuse(stack([*fine, *maps[self.first :]]))
        features = {a: layers(x) for a, layers in self.features.items()}
        outputs = {}
        for task, gates in self.distil.items():
            distilled = features[task]
            for other, gate in gates.items():
                distilled = distilled + gate(features[other])
            outputs[task] = resize(self.heads[task](distilled), size)
        if self.training:
            for task, layer in self.initial.items():
                outputs[f"{task}@initial"] = resize(layer(features[task]), size)
        return outputs


def _auxiliary(name: str, tasks: Mapping[str, TaskSpec]) -> TaskSpec:
    """The spec of an auxiliary task.

    Raises:
        ConfigError: It is a final task too, or its classes are the data set's.
    """
    if name in tasks:
        raise ConfigError(f"padnet: auxiliary {name!r} is one of its tasks already; leave it out")
    task = all_tasks.find(name)
    if task.num_channels is None:
        raise ConfigError(
            f"padnet: auxiliary {name!r} has classes of the data set; make it one of the tasks"
        )
    return task.spec()
