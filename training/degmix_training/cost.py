"""The cost of a network: its parameters and the multiply-adds of one image."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from degmix_edge.bundle.manifest import TRUNK, Split, split_with


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds (MACs) of one image; `macs_of` has those of each part."""

    params: int
    macs: int
    macs_of: dict[str, int]


def count(network: nn.Module, height: int, width: int) -> Cost:
    """Count the convolutions, matrix products, attentions and deformable convolutions.

    A deformable convolution counts like a convolution of the same shape, without the four products
    of each bilinear sample. Resizes, norms and activations count as zero. The network runs on the
    meta device, which needs no memory and does no arithmetic.
    """
    macs, by_module = _counted(network, height, width)
    root = type(network).__name__
    return Cost(
        params=sum(p.numel() for p in network.parameters()),
        macs=macs,
        macs_of={
            name: _macs(by_module, f"{root}.{name}", part)
            for name, part in network.named_children()
            if any(True for _ in part.parameters())
        },
    )


def task_costs(network: Any, height: int, width: int) -> Split:
    """Return what each task costs where tasks run apart, counted as `count` does.

    Args:
        network: A network of `models` as it is trained; what export makes of it is counted.
        height: Height of its input in pixels.
        width: Width of its input in pixels.

    Raises:
        ConfigError: The tasks of this network cannot run apart.
    """
    folded = network.fold_for_inference()
    folded.split_tasks()
    macs, by_module = _counted(folded, height, width)
    root, tasks = type(folded).__name__, list(folded.queries)

    def share(part: str) -> float:
        module = folded.get_submodule(part)
        return _macs(by_module, f"{root}.{part}", module) / max(macs, 1)

    parts = [name for name, _ in folded.named_children()]
    # What is in no part are the sums over tokens that a task leaves to the others.
    each = (share("interact") + 1 - sum(map(share, parts))) / len(tasks)
    gate = share("gate") / len(tasks)
    mixers = {task: share(f"mixers.{task}") + each for task in tasks}
    by_task = {t: mixers[t] + share(f"queries.{t}") + gate + share(f"heads.{t}") for t in tasks}
    trunk = max(0.0, 1 - sum(by_task.values()))
    return split_with({TRUNK: trunk, **by_task}, mixers, folded.has_places)


def _counted(network: nn.Module, height: int, width: int) -> tuple[int, dict[str, int]]:
    """Multiply-adds of a network, and by the path of each module that was called."""
    network = copy.deepcopy(network).eval().to("meta")
    custom = {torch.ops.torchvision.deform_conv2d: _deform_conv_flops}
    counter = FlopCounterMode(display=False, custom_mapping=custom)
    with counter, torch.no_grad():
        network(torch.zeros(1, 3, height, width, device="meta"))
    by_module = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return counter.get_total_flops() // 2, by_module


def _macs(by_module: dict[str, int], name: str, module: nn.Module) -> int:
    """Return a module's multiply-adds; for a container that is never called, its parts' sum."""
    if name in by_module:
        return by_module[name]
    return sum(_macs(by_module, f"{name}.{child}", part) for child, part in module.named_children())


def _deform_conv_flops(value: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Return two operations for every weight that contributes to each output."""
    n, outputs, height, width = out_shape
    per_output = weight[1] * weight[2] * weight[3]
    return int(2 * n * outputs * height * width * per_output)
