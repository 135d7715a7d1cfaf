"""One loss per task, with the weights of the DeMT family's published recipe (authors' code).

Each loss takes logits `(N, C, H, W)` and a batch of labels in the data sets' form, and returns the
mean over valid pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
INVERSE = 65536.0
"""DenseMTL's scale of inverse depths."""
EDGE_WEIGHT = 0.8
"""Weight of an edge pixel; a background pixel weighs 0.2. Published: 0.8 NYUD-v2, 0.95 PASCAL."""


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy with classes `(N, H, W)`; 255 is ignored."""
    return _mean(
        F.cross_entropy(logits, label.long(), ignore_index=IGNORE, reduction="sum"), label != IGNORE
    )


def balanced_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of two classes `(N, H, W)`, each weighted by the other's share of the batch."""
    valid = label != IGNORE
    background = ((label == 0) & valid).sum() / valid.sum().clamp(min=1)
    weight = torch.stack((1 - background, background)).to(logits.dtype)
    loss = F.cross_entropy(
        logits, label.long(), weight=weight, ignore_index=IGNORE, reduction="sum"
    )
    return _mean(loss, valid)


def normals_l1(logits: Tensor, label: Tensor) -> Tensor:
    """L1 distance of unit vectors, summed over their components.

    `label` is `(N, H, W, 3)`; a vector of length zero is invalid.
    """
    target = label.permute(0, 3, 1, 2)
    valid = target.square().sum(1, keepdim=True) > 0
    return _mean(((F.normalize(logits, dim=1) - target).abs() * valid).sum(), valid)


def depth_l1(logits: Tensor, label: Tensor) -> Tensor:
    """L1 distance in metres; `label` is `(N, H, W)`, and 0 is invalid."""
    valid = label > 0
    return _mean(((logits[:, 0] - label).abs() * valid).sum(), valid)


def depth_inverse_berhu(logits: Tensor, label: Tensor) -> Tensor:
    """BerHu loss of 65536 / (depth in cm + 1).

    This is DenseMTL's loss (Lopes et al., WACV 2023): L1 up to a fifth of the batch's largest
    difference, and a parabola beyond. The logits and `label` `(N, H, W)` are in metres; 0 is
    invalid.
    """
    valid = label > 0
    inverse = INVERSE / (100 * logits[:, 0].clamp(min=0) + 1)
    difference = (inverse - INVERSE / (100 * label + 1)).abs() * valid
    knee = (0.2 * difference.detach().max()).clamp(min=1e-6)
    parabola = (difference.square() + knee**2) / (2 * knee)
    return _mean(torch.where(difference <= knee, difference, parabola).sum(), valid)


def edge_bce(logits: Tensor, label: Tensor, edge_weight: float = EDGE_WEIGHT) -> Tensor:
    """Binary cross-entropy; `label` is `(N, H, W)`, and 255 is ignored.

    An edge pixel weighs `edge_weight`, any other pixel `1 - edge_weight`.
    """
    valid = label != IGNORE
    target = (label == 1).to(logits.dtype)
    weight = torch.where(target > 0, edge_weight, 1 - edge_weight) * valid
    return _mean(
        F.binary_cross_entropy_with_logits(logits[:, 0], target, weight=weight, reduction="sum"),
        valid,
    )


def _mean(total: Tensor, valid: Tensor) -> Tensor:
    return total / valid.sum().clamp(min=1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "semseg": cross_entropy,
    "human_parts": cross_entropy,
    "saliency": balanced_cross_entropy,
    "normals": normals_l1,
    "edge": edge_bce,
    "depth": depth_l1,
}
DEPTH_LOSSES = {"l1": depth_l1, "inverse_berhu": depth_inverse_berhu}
WEIGHTS = {
    "semseg": 1.0,
    "human_parts": 2.0,
    "saliency": 5.0,
    "normals": 10.0,
    "edge": 50.0,
    "depth": 1.0,
}
