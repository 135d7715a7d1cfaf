"""Losses that need no labels: the maps of a teacher, and what the tasks say of each other.

Distillation follows Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network"
(arXiv 1503.02531): the student learns the teacher's class probabilities at a temperature. For
regressions it learns the teacher's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degmix_edge.errors import ConfigError
from degmix_edge.tasks import DECODES, TaskSpec
from degmix_training import checkpoint

EPS = 1e-6
JUMP = 0.05
"""Where neighbouring depths differ by a larger share, a surface ends and has no normal."""


@dataclass(frozen=True)
class Teacher:
    """A trained network that shows another one its maps.

    Attributes:
        network: The network.
        mean, std: How it wants RGB in 0..255.
        temperature: What class logits are divided by.
    """

    network: nn.Module
    mean: Tensor
    std: Tensor
    temperature: float

    @classmethod
    def of(
        cls,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        temperature: float = 2.0,
    ) -> Teacher:
        """Return `network`, which wants images with this normalisation, as a teacher."""
        levels = (torch.tensor(v, device=device).view(1, 3, 1, 1) * 255 for v in (mean, std))
        return cls(network.to(device).eval(), *levels, temperature)

    @classmethod
    def load(
        cls, path: Path, specs: Mapping[str, TaskSpec], temperature: float, device: torch.device
    ) -> Teacher:
        """Load the checkpoint `path` as a teacher of `specs`.

        Raises:
            CheckpointError: It cannot be read.
            ConfigError: It lacks a task, or has other classes.
        """
        loaded = checkpoint.load(checkpoint.locate(str(path)))
        for task, spec in specs.items():
            own = loaded.tasks.get(task)
            if own is None:
                raise ConfigError(
                    f"distill.teacher {path}: has no task {task!r}; it has "
                    f"{', '.join(loaded.tasks)}; take another teacher, or train these tasks only"
                )
            if (own.num_channels, own.classes) != (spec.num_channels, spec.classes):
                raise ConfigError(
                    f"distill.teacher {path}: {task} has other classes ({own.num_channels} "
                    f"channels) than this data set ({spec.num_channels}); both need the same"
                )
        config = loaded.card.config
        return cls.of(loaded.network, config.mean, config.std, device, temperature)

    def losses(
        self, image: Tensor, outputs: Mapping[str, Tensor], specs: Mapping[str, TaskSpec]
    ) -> dict[str, Tensor]:
        """Return the distance of `outputs` from the teacher's maps, by task.

        Args:
            image: uint8 RGB `(N, H, W, 3)`.
            outputs: The student's logits `(N, C, H, W)` by task.
            specs: The tasks.
        """
        with torch.no_grad():
            shown: Any = self.network((image.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return {
            task: imitation(outputs[task].float(), shown[task].float(), spec, self.temperature)
            for task, spec in specs.items()
        }


def imitation(student: Tensor, teacher: Tensor, spec: TaskSpec, temperature: float) -> Tensor:
    """Return the mean distance of a pixel from the teacher's.

    It is the Kullback-Leibler divergence at the temperature for classes, cross-entropy for a
    probability, L1 of unit vectors for normals, and L1 for other values.
    """
    if spec.decode == "unit_vector":
        return (F.normalize(student, dim=1) - F.normalize(teacher, dim=1)).abs().sum(1).mean()
    if spec.decode == "sigmoid":
        return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    if DECODES[spec.decode].is_regression:
        return (student - teacher).abs().sum(1).mean()
    log_student = (student / temperature).log_softmax(1)
    log_teacher = (teacher / temperature).log_softmax(1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean()
    return divergence * temperature**2


def normals_of_depth(depth: Tensor, focal: float) -> tuple[Tensor, Tensor]:
    """Return the normals of the surface that a depth map shows, and where it is smooth.

    As in GeoNet (Qi et al., CVPR 2018), pixels become points, and a normal is the cross product of
    the differences of neighbours.

    Args:
        depth: `(N, 1, H, W)` in metres.
        focal: Focal length in pixels; the principal point is the centre.

    Returns:
        Unit normals `(N, 3, H - 1, W - 1)`, x right, y down and z forward, which point to the
        camera; and a mask `(N, 1, H - 1, W - 1)` that is 1 where neighbours belong together.
    """
    height, width = depth.shape[-2:]
    options = {"dtype": depth.dtype, "device": depth.device}
    y = (torch.arange(height, **options) + 0.5 - height / 2).view(1, 1, height, 1) / focal
    x = (torch.arange(width, **options) + 0.5 - width / 2).view(1, 1, 1, width) / focal
    ones = torch.ones_like(depth)
    points = torch.cat((x * depth, y * depth, ones * depth), dim=1)
    corner = points[..., :-1, :-1]
    right, down = points[..., :-1, 1:] - corner, points[..., 1:, :-1] - corner
    normals = F.normalize(torch.linalg.cross(down, right, dim=1), dim=1, eps=EPS)
    centre = depth[..., :-1, :-1].detach()
    steps = torch.maximum(right[:, 2:].abs(), down[:, 2:].abs()).detach()
    smooth = (steps < JUMP * centre) & (centre > 0)
    return normals, smooth.to(depth.dtype)


def normals_agree(normals: Tensor, depth: Tensor, focal: float) -> Tensor:
    """Return how far predicted normals are from those of the predicted depth, L1 of unit vectors.

    Args:
        normals: `(N, 3, H, W)`.
        depth: `(N, 1, H, W)` in metres.
        focal: Focal length in pixels.
    """
    implied, smooth = normals_of_depth(depth, focal)
    own = F.normalize(normals[..., :-1, :-1], dim=1, eps=EPS)
    return ((own - implied).abs() * smooth).sum() / smooth.sum().clamp(min=1)


def edges_agree(edge: Tensor, semseg: Tensor) -> Tensor:
    """Return how much of the boundaries between predicted classes the predicted edges miss.

    The probability that a pixel and its right or lower neighbour have different classes is that of
    a boundary. Edges elsewhere cost nothing, because objects have edges inside too.

    Args:
        edge: Logits `(N, 1, H, W)`.
        semseg: Logits `(N, C, H, W)`.
    """
    shares = semseg.softmax(1)
    corner = shares[..., :-1, :-1]
    same = [(corner * shares[..., :-1, 1:]).sum(1), (corner * shares[..., 1:, :-1]).sum(1)]
    boundary = 1 - torch.minimum(*same)
    return F.relu(boundary - edge[:, 0, :-1, :-1].sigmoid()).mean()
