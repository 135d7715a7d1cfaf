"""The arithmetic of the time model: bounds of launches, their fit, and times of networks.

A kernel takes as long as its busiest resource on its busiest multiprocessor: issue slots, load and
store units, special units, tensor cores, or the bytes that memory must move. Latency, caches and
bank conflicts are not modelled, so they are inside the efficiency by which a bound is divided.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import sass
from cards import Card
from work import Work

from degmix_edge.graph import roofline
from degmix_edge.graph.cost import NodeCost

SCHEDULERS = 4
SHARED_BYTES = 128
"""Bytes of shared memory that a multiprocessor reads or writes in a clock."""
KERNELS = frozenset(
    "ArgMax AveragePool Concat GlobalAveragePool GridSample LayerNormalization MaxPool ReduceMean "
    "ReduceSum Resize ScatterND Softmax TopK Transpose".split()
)
"""Operators without multiply-adds that a builder makes kernels of."""
DENSE = "dense convolutions"
"""The operator under which a calibration has cuDNN's convolutions."""


@dataclass(frozen=True)
class Fit:
    """How the times of an operator follow from its bounds.

    Attributes:
        extra_us: What a launch costs beside the start of an empty kernel: filling and draining.
        efficiency: Between 0 and 1.
        error: Largest relative error among the rows of the calibration.
        error_held_out: The same, each row predicted from a fit to the others.
        rows: How many they were.
    """

    extra_us: float
    efficiency: float
    error: float
    error_held_out: float
    rows: int


@dataclass(frozen=True)
class Prediction:
    """The bounds of one launch on one card.

    Attributes:
        bounds: Microseconds by resource.
        start_us: Microseconds that any launch costs.
        warps: Warps that are resident on a multiprocessor.
    """

    bounds: dict[str, float]
    start_us: float
    warps: int

    @property
    def limit(self) -> str:
        """The resource that bounds the launch."""
        return max(self.bounds, key=self.bounds.__getitem__)

    def microseconds(self, fitted: Fit) -> float:
        """Return the predicted time."""
        return self.start_us + fitted.extra_us + self.bounds[self.limit] / fitted.efficiency


@dataclass(frozen=True)
class Row:
    """One measurement: the bound, what a launch costs, and the time, all in microseconds."""

    operator: str
    bound: float
    start: float
    time: float


Times = dict[tuple[str, str], float]
"""Measured microseconds by case and contestant."""
Efficiencies = dict[str, tuple[float, float | None]]
"""Efficiency and largest relative error by operator; None where nothing was measured."""


def device_of(card: Card) -> roofline.Device:
    """Return the device of a card, with the bandwidth that a copy reaches."""
    device = roofline.find(card.device)
    return device.model_copy(update={"bandwidth_gbs": device.bandwidth_gbs * card.copy_share})


def predict(kernel: sass.Kernel, work: Work, card: Card) -> Prediction:
    """Bound the time of a launch of `kernel` by each resource of a card."""
    per_turn = kernel.main.macs if work.macs else 32 * kernel.samples
    loops = [(kernel.main, (work.macs or work.values) / per_turn)]
    if work.copied:
        fill = next(x for x in kernel.loops if {"LDG.128", "STS.128"} <= set(x.widths))
        size = next(size for name, size in sass.SIZES.items() if f"<{name}" in kernel.name)
        loops.append((fill, work.copied / (32 * 16 / size)))
    warps = math.ceil(work.threads / 32)
    once = kernel.instructions - sum(loop.instructions for loop in kernel.loops)

    def count(*parts: str) -> float:
        return sum(turns * sum(loop.parts.get(p, 0) for p in parts) for loop, turns in loops)

    issued = sum(turns * loop.instructions for loop, turns in loops)
    shared = sum(turns * shared_bytes(loop) for loop, turns in loops)
    clocks = {
        "issue": (issued + once * warps * work.blocks) / SCHEDULERS,
        "memory units": max(count("global", "shared") / card.memory_rate, shared / SHARED_BYTES),
        "special units": count("special") / card.special_rate,
        "tensor cores": work.macs / card.tensor_rate,
    }
    # The busiest multiprocessor has whole blocks.
    share = math.ceil(work.blocks / card.multiprocessors) / work.blocks
    device = device_of(card)
    bounds = {name: clock * share / card.clock_ghz / 1e3 for name, clock in clocks.items()}
    bounds["bytes"] = work.moved / device.bandwidth_gbs / 1e3
    return Prediction(bounds, device.launch_us, resident_warps(kernel, work, card))


def shared_bytes(loop: sass.Loop) -> int:
    """Return the bytes of shared memory that a warp reads and writes in a turn."""
    widths = [name.split(".") for name in loop.widths for _ in range(loop.widths[name])]
    return sum(
        32 * max(int(width.lstrip("US")), 32) // 8
        for name, width in widths
        if name in ("LDS", "STS", "LDSM", "STSM", "LDGSTS")
    )


def resident_warps(kernel: sass.Kernel, work: Work, card: Card) -> int:
    """Return how many warps a multiprocessor holds, by registers, shared memory and its limit.

    Raises:
        ValueError: It holds no block: the launch configuration is that of another kernel.
    """
    warps = math.ceil(work.threads / 32)
    blocks = min(
        65536 // (32 * warps * max(kernel.registers, 1)),
        card.shared_bytes // (work.shared_bytes + kernel.shared + 1024),
        card.warps // warps,
    )
    if blocks == 0:
        raise ValueError(
            f"{kernel.name}: {work.threads} threads of {kernel.registers} registers with "
            f"{work.shared_bytes} bytes of shared memory do not fit a multiprocessor of "
            f"{card.title}: is the launch configuration that of another kernel?"
        )
    return warps * min(blocks, math.ceil(work.blocks / card.multiprocessors))


def fit(rows: Sequence[Row]) -> Fit:
    """Fit `time = start + extra + bound / efficiency` to measurements, by least relative squares.

    `extra` is at least 0, and the efficiency at most 1.
    """
    extra, slope = _least_squares(rows)
    held_out = [
        _error(row, *_least_squares([*rows[:i], *rows[i + 1 :]])) for i, row in enumerate(rows)
    ]
    return Fit(
        extra_us=extra,
        efficiency=1 / slope,
        error=max(_error(row, extra, slope) for row in rows),
        error_held_out=max(held_out),
        rows=len(rows),
    )


def _error(row: Row, extra: float, slope: float) -> float:
    return abs((row.start + extra + slope * row.bound) / row.time - 1)


def _least_squares(rows: Sequence[Row]) -> tuple[float, float]:
    """Return `extra` and the inverse of the efficiency; 0 and 1 without a row."""
    if not rows:
        return 0.0, 1.0
    x = np.array([row.bound / row.time for row in rows])
    rest = np.array([1 - row.start / row.time for row in rows])
    ones = np.array([1 / row.time for row in rows])
    extra, slope = np.linalg.lstsq(np.stack([ones, x], 1), rest, rcond=None)[0]
    if len(rows) == 1 or extra < 0:
        extra, slope = 0.0, max(x @ rest / (x @ x), 1.0)
    elif slope < 1:
        extra, slope = max(ones @ (rest - x) / (ones @ ones), 0.0), 1.0
    return float(extra), float(slope)


def dense_rows(times: Times) -> list[Row]:
    """Return cuDNN's 3x3 convolutions in FP16 on an H100, as rows for a calibration."""
    device, rows = roofline.find("h100"), []
    for (case, contestant), time in times.items():
        if contestant.startswith("dense 3x3") and case.endswith("stride 1"):
            n, c, height, width = map(int, case.split()[2].rstrip(",").split("x"))
            pixels = n * height * width
            sizes = (9 * c * c * pixels, 36 * c * c, 4 * c * pixels, 4 * c * pixels)
            bound = 1e3 * device.node_ms(NodeCost("", "Conv", *sizes), "fp16") - device.launch_us
            rows.append(Row(DENSE, bound, device.launch_us, time))
    return rows


def network_ms(
    layers: Iterable[NodeCost], device: roofline.Device, precision: str, efficiency: float
) -> float:
    """Predict the milliseconds of a network from the costs of its nodes.

    Nodes without multiply-adds count if their operator is one of `KERNELS`; a builder fuses the
    others. A 1x1 deformable convolution also writes its samples and reads them again.
    """
    total, start = 0.0, device.launch_us / 1e3
    for cost in layers:
        if cost.op == "DeformConv":
            cost = dataclasses.replace(cost, read_bytes=cost.read_bytes + 2 * cost.write_bytes)
        if cost.macs or cost.op in KERNELS:
            total += start + (device.node_ms(cost, precision) - start) / efficiency
    return total
