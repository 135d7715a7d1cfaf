"""What the launches of the time model have to do, for the cases of `plugins/bench`.

Launch configurations are those of the launchers themselves, asked for through a built library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import degmix_kernels as native
from cards import Card

OFFSET_TILE = 8, 32
"""Height and width of a block's pixels in deform_offsets."""
OFFSET_DEPTH = 96
"""Products that an offset is summed from, with padding."""
OFFSET_SHARED = 56 * 1024
"""Bytes of shared memory of its block."""
VARIANTS = {native.SHARED: "shared", native.DIRECT: "direct", native.COMPACT: "compact"}
"""The words of `sass.py` for variants of deform_sample."""
CHANNELS = 256
"""Channels of DeMT's maps."""
TILE = 64, 128
"""Pixels and output channels of deform_conv2d's tile that was measured on the H100."""


@dataclass(frozen=True)
class Work:
    """One launch.

    Attributes:
        kernel: Name of the kernel, as `sass.py` has it.
        values: Values that the main loop stores, where it stores them.
        macs: Multiply-adds of the main loop, where it has tensor instructions.
        copied: Values of planes that are copied into shared memory.
        moved: Bytes that memory must at least move.
        blocks, threads: The launch configuration.
        shared_bytes: Dynamic shared memory of a block.
    """

    kernel: str
    values: int
    macs: int
    copied: int
    moved: int
    blocks: int
    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class Case:
    """One case of the bench.

    Attributes:
        operator: Operator, whose rows share an efficiency.
        name: The bench's name of the case.
        contestant: The bench's name of what was timed.
        work: What a card has to do.
    """

    operator: str
    name: str
    contestant: str
    work: Callable[[native.Kernels, Card], Work]


def limits(card: Card) -> native.DeviceLimits:
    """What a launch configuration depends on."""
    shared = card.shared_bytes
    return native.DeviceLimits(card.multiprocessors, shared - 1024, shared, card.architecture)


def _sample(name: str, contestant: str, shape: tuple[int, int, int], size: int) -> Case:
    """deform_sample of FP16 maps at `shape` (tasks, height, width); offsets have `size` bytes."""
    tasks, height, width = shape
    values = tasks * CHANNELS * height * width

    def work(kernels: native.Kernels, card: Card) -> Work:
        params = native.DeformSampleParams(items=tasks, n=1, c=CHANNELS, height=height, width=width)
        params.out_height, params.out_width = height, width
        params.value_type = native.HALF
        params.offset_type = native.HALF if size == 2 else native.FLOAT
        if card.architecture == 90:
            # The measured kernels of that card kept every plane as words.
            params.variant = native.SHARED
        plan = kernels.plan("deform_sample", params, limits(card))
        is_shared = plan.variant != native.DIRECT
        pixels = 2 if is_shared and width % 2 == 0 else 1
        return Work(
            f"deformSampleKernel<fp16, fp{8 * size}, {VARIANTS[plan.variant]}, {pixels}>",
            values=values,
            macs=0,
            copied=values if is_shared else 0,
            moved=values * (2 + 2 + 2 * size),
            blocks=plan.blocks,
            threads=plan.threads,
            shared_bytes=plan.shared_bytes,
        )

    return Case("deform_sample", name, contestant, work)


def _offsets(name: str, shape: tuple[int, int, int]) -> Case:
    """deform_offsets at `shape` (tasks, height, width)."""
    tasks, height, width = shape
    tiles = math.ceil(height / OFFSET_TILE[0]) * math.ceil(width / OFFSET_TILE[1])
    macs = tasks * tiles * math.prod(OFFSET_TILE) * 2 * CHANNELS * OFFSET_DEPTH
    vector = next(v for v in (8, 4, 1) if width % v == 0)

    def work(kernels: native.Kernels, card: Card) -> Work:
        return Work(
            f"deformOffsetsKernel<{vector}>",
            values=0,
            macs=macs,
            copied=0,
            moved=tasks * height * width * 2 * (18 + 2 * CHANNELS),
            blocks=2 * tiles * tasks,
            threads=256,
            shared_bytes=OFFSET_SHARED,
        )

    return Case("deform_offsets", name, "deform_offsets", work)


def _convolution(c: int, height: int, width: int, tasks: int = 1) -> Case:
    """deform_conv2d 3x3 with a mask, from C to C channels, FP16, channels last.

    Several tasks are items of one launch, each with weights of its own.
    """

    def work(kernels: native.Kernels, card: Card) -> Work:
        params = native.DeformConv2dParams(items=tasks, n=1, c=c, height=height, width=width)
        params.out_channels, params.out_height, params.out_width = c, height, width
        params.kernel_height = params.kernel_width = 3
        params.stride_height = params.stride_width = 1
        params.dilation_height = params.dilation_width = params.groups = params.offset_groups = 1
        params.value_type = params.output_type = native.HALF
        params.value_layout = params.output_layout = native.CHANNELS_LAST
        params.value_pitch = params.output_pitch = c
        if card.architecture == 90:
            # By default two kinds of warps share the work there, which the model cannot add up.
            params.variant, params.tile_m, params.tile_n, params.splits = native.WARPS, *TILE, 1
        plan = kernels.plan("deform_conv2d", params, limits(card))
        sides = sorted(name for name, _ in plan._fields_ if name.startswith("tile"))
        tile = [str(getattr(plan, side)) for side in sides]
        pixels = height * width
        return Work(
            f"deformConv2dKernel<fp16, {', '.join(tile)}, true>",
            values=0,
            macs=tasks * pixels * c * c * 9,
            copied=0,
            moved=tasks * (2 * pixels * 2 * c + pixels * 27 * 4 + 2 * 9 * c * c),
            blocks=plan.blocks,
            threads=plan.threads,
            shared_bytes=plan.shared_bytes,
        )

    several = f", {tasks} tasks" if tasks > 1 else ""
    name = f"dcnv2 3x3 1x{c}x{height}x{width}, G 1, stride 1{several}"
    contestant = f"deform_conv2d {TILE[0]} x {TILE[1]}, 1 splits, variant {native.WARPS}"
    return Case("deform_conv2d", name, contestant, work)


def _cases() -> list[Case]:
    sizes = (4, 112, 144), (1, 112, 144), (8, 28, 36)
    names = [f"{CHANNELS}x{height}x{width}, {tasks} tasks" for tasks, height, width in sizes]
    both = list(zip(names, sizes, strict=True))
    return [
        *(_sample(f"demt {name}", "deform_sample", shape, 4) for name, shape in both),
        _sample(f"demt {names[0]}", "deform_sample, fp16 offsets", sizes[0], 2),
        *(_sample(f"mixer {n}", "deform_sample with positions", shape, 2) for n, shape in both),
        *(_offsets(f"mixer {name}", shape) for name, shape in both),
        *(_convolution(c, h, h) for c, h in ((64, 128), (128, 64), (256, 64), (512, 16))),
        _convolution(256, 112, 144),
        *(_convolution(256, 28, 36, tasks) for tasks in (4, 8)),
        *(_convolution(c, 56, 72, tasks) for c, tasks in ((128, 4), (64, 6), (256, 3))),
    ]


CASES = _cases()
