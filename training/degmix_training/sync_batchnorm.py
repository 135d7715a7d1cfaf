"""Batch norm over the batches of all processes of a job.

On GPUs this is timm's conversion, which keeps the activations inside timm's batch norms; torch's
and Lightning's conversions drop them. torch's `SyncBatchNorm` refuses CPU tensors, so this module
has its own classes for CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn


def convert(network: nn.Module, *, on_cpu: bool) -> nn.Module:
    """Return `network` with every batch norm synchronised; weights keep their names."""
    if not on_cpu:
        return convert_sync_batchnorm(network)
    for part in network.modules():
        if type(part) in CPU_CLASSES:
            part.__class__ = CPU_CLASSES[type(part)]
    return network


def _normalise(norm: Any, x: Tensor) -> Tensor:
    """Normalise `x` `(N, C, H, W)` by the statistics of the global batch, and update `norm`'s."""
    count = torch.full((1,), float(x.numel() / x.shape[1]), dtype=x.dtype)
    sums = torch.cat((x.sum((0, 2, 3)), count))
    total, count = dist_functional.all_reduce(sums).split((x.shape[1], 1))
    mean = total / count
    centred = x - mean.view(1, -1, 1, 1)
    variance = dist_functional.all_reduce(centred.square().sum((0, 2, 3))) / count
    if norm.track_running_stats:
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
            norm.num_batches_tracked += 1
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    y = centred * scale.view(1, -1, 1, 1)
    return y + norm.bias.view(1, -1, 1, 1) if norm.affine else y


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` whose training statistics are those of the global batch."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C, H, W)`."""
        shared = self.training and dist.is_initialized()
        return _normalise(self, x) if shared else super().forward(x)


class CpuSyncBatchNormAct(BatchNormAct2d):
    """timm's batch norm with its activation, normalised by the global batch in training."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C, H, W)`."""
        shared = self.training and dist.is_initialized()
        return self.act(self.drop(_normalise(self, x))) if shared else super().forward(x)


CPU_CLASSES = {nn.BatchNorm2d: CpuSyncBatchNorm, BatchNormAct2d: CpuSyncBatchNormAct}
