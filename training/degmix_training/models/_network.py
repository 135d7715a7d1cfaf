"""What every network has: its heads, what it asks of training, and how it folds for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_edge.tasks import TaskSpec
from degmix_training.models._partially_dynamic import (
    PartiallyDynamicConv2d,
    PartialSettings,
    partition,
)

Losses = Sequence[Callable[[], Tensor]]


class HeadSettings(Settings):
    """What every network's heads can have.

    Attributes:
        partially_dynamic: Makes each head's 3x3 convolution partially dynamic; None is an ordinary
            one.
    """

    partially_dynamic: PartialSettings | None = None


class Network(nn.Module):
    """`(N, 3, H, W)` normalised images to `{task: (N, C, H, W) logits}`; each row by itself.

    In training mode a network may give more. An entry `task@place` holds logits of that task, of
    the image's size, under the task's own loss and weight; an entry `@name` is a loss by itself,
    added as it is.

    Attributes:
        own_folds: The exact rewrites that inference takes, by name, in order. Each changes a
            network in place.
        folded: Names of the rewrites that this network has behind it.
        auxiliary: Tasks that are learned for the others' sake: labelled in training, no output.
    """

    own_folds: ClassVar[Mapping[str, Callable[[Any], None]]] = {}
    backbone: nn.Module
    folded: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: Mapping[str, TaskSpec] = {}

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of all exact rewrites that this network can still take, in order."""
        dynamic = any(isinstance(module, PartiallyDynamicConv2d) for module in self.modules())
        own = (name for name in self.own_folds if name not in self.folded)
        return (*own, *(["fold_partition"] if dynamic else []))

    def fold_for_inference(self, folds: Iterable[str] | None = None) -> Any:
        """The same function with fewer operations, a copy in eval mode; None takes all folds."""
        folded = copy.deepcopy(self).eval()
        names = tuple(self.folds if folds is None else folds)
        folded.folded = (*self.folded, *names)
        for name in names:
            if name == "fold_partition":
                for head in [m for m in folded.modules() if isinstance(m, Head)]:
                    head.fold_partition()
            else:
                folded.apply_fold(name)
        return folded

    def apply_fold(self, name: str) -> None:
        """Apply one of `own_folds` in place.

        Raises:
            ConfigError: It is none of them.
        """
        if name not in self.own_folds:
            raise ConfigError(unknown("fold", name, self.folds))
        self.own_folds[name](self)

    def keep(self, tasks: Sequence[str]) -> Network:
        """This network, or one that spends nothing on other tasks than `tasks`.

        Graph passes drop what only other tasks need; this is for what they cannot see.
        """
        return self

    def split_tasks(self) -> None:
        """Compute each task apart from the others as far as the function stays the same.

        Raises:
            ConfigError: The tasks of this network are one.
        """
        raise ConfigError(
            f"{type(self).__module__.rpartition('.')[2]}: its tasks cannot run apart; those of "
            "demt, demtg and degmix can. Leave out --split, or keep fewer tasks with --tasks"
        )

    def begin(self, losses: Losses) -> None:
        """Before the first step; each of `losses` computes the loss of one batch."""
        partition([m for m in self.modules() if isinstance(m, PartiallyDynamicConv2d)], losses)

    def advance(self, progress: float) -> None:
        """Before a step, when `progress` (0 to 1) of training is done: schedules move."""
        for module in self.modules():
            if module is not self and hasattr(module, "advance"):
                module.advance(progress)


class Head(nn.Sequential):
    """One task's head: `(N, d, h, w) -> (N, num_channels, h, w)` logits."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_channels: int,
        dynamic: PartialSettings | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        conv = (
            nn.Conv2d(dim, hidden, 3, padding=1, bias=False)
            if dynamic is None
            else PartiallyDynamicConv2d(dim, hidden, 3, dynamic)
        )
        super().__init__(
            conv, nn.BatchNorm2d(hidden), activation(), nn.Conv2d(hidden, num_channels, 1)
        )
        nn.init.normal_(self[-1].weight, std=0.01)
        nn.init.zeros_(self[-1].bias)

    def hidden(self, x: Tensor) -> Tensor:
        """Compute what the last convolution reads, `(N, hidden, h, w)`."""
        conv, norm, activation, _ = self
        return activation(norm(conv(x)))

    def fold_partition(self) -> None:
        """Replace a partially dynamic convolution by its folded form; the last layer reorders."""
        if isinstance(self[0], PartiallyDynamicConv2d):
            self[0], order = self[0].folded()
            norm, last = self[1], self[-1]
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).data = getattr(norm, name).data[order]
            last.weight.data = last.weight.data[:, order].contiguous()


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps `(N, C, H, W)` to `size`, bilinear with half-pixel centres."""
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)


def stack(maps: Sequence[Tensor]) -> Tensor:
    """Maps at the size of the first one, concatenated."""
    size = maps[0].shape[-2:]
    return torch.cat([maps[0], *(resize(m, size) for m in maps[1:])], dim=1)


def conv_norm_relu(channels: int, dim: int, kernel: int = 3) -> list[nn.Module]:
    """A convolution without bias, a batch norm, ReLU."""
    return [
        nn.Conv2d(channels, dim, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(dim),
        nn.ReLU(),
    ]


def need_several(model: str, tasks: Iterable[str]) -> None:
    """Refuse a network whose tasks help each other with one task.

    Raises:
        ConfigError: There is one task alone.
    """
    names = list(tasks)
    if len(names) < 2:
        raise ConfigError(
            f"model {model!r} lets tasks help each other: got the one task {', '.join(names)}, "
            f"expected at least two; for one task take model 'baseline'"
        )
