"""The cases: each checks one call of the networks against float64 and times the contestants.

A case's `*_inputs` makes the tensors of one launch on the bench's device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import degmix_kernels as native
import torch
import torch.nn.functional as F  # noqa: N812
from harness import Bench, Tensors
from offsets import per_channel_offsets, positions
from torchvision.ops import deform_conv2d as by_torchvision

from degmix_edge.ops.deform_offsets import pack, position_table

# DeMT's call: 1x1, an offset pair a channel, FP16 values, FP32 offsets.


def demt(bench: Bench, kind: str, shape: tuple[int, int, int], tasks: int) -> None:
    """DeMT's deformable convolution at `shape` (C, H, W) with offsets of `kind`, for each task."""
    c, height, width = shape

    def make() -> list[Tensors]:
        return [demt_inputs(bench, kind, shape) for _ in range(tasks)]

    sets = make()
    bench.sample(sets)
    results = [
        (
            product(one).double(),
            by_torchvision(*(one[k].double() for k in ("value", "offset", "weight", "bias"))),
            by_torchvision(*(one[k] for k in ("value", "offset16", "weight", "bias"))),
        )
        for one in sets
    ]
    row = bench.row(f"demt {c}x{height}x{width}, {tasks} tasks", kind, results)
    moved = c * height * width * (2 + 2 + 8)
    row.bytes, row.flops = tasks * moved, tasks * 2 * c * c * height * width

    def make_for_all() -> list[Tensors]:
        sets = make()
        for one in sets:
            for name in ("value", "weight", "bias"):
                one[f"{name}32"] = one[name].float()
            one["out"] = torch.empty_like(one["sampled"])
            one["from"] = torch.empty(moved // 2, dtype=torch.uint8, device=bench.device)
            one["into"] = torch.empty_like(one["from"])
        return sets

    bench.time(row, make_for_all, demt_contestants(bench))


def demt_inputs(bench: Bench, kind: str, shape: tuple[int, int, int]) -> Tensors:
    """The tensors of one task; `offset16` are the offsets in half precision."""
    c, height, width = shape
    value = torch.randn(1, c, height, width)
    weight = torch.randn(c, c, 1, 1) / c**0.5
    one = {
        "value": bench.put(value, torch.float16),
        "offset": bench.put(per_channel_offsets(kind, 1, c, height, width), torch.float32),
        "weight": bench.put(weight, torch.float16),
        "bias": bench.put(torch.randn(c), torch.float16),
    }
    one["offset16"] = one["offset"].half()
    one["sampled"] = poisoned(one["value"])
    return one


def poisoned(like: torch.Tensor) -> torch.Tensor:
    """An output of NaN, so that what a kernel does not write is an error."""
    return torch.full_like(like, float("nan"))


def product(one: Tensors) -> torch.Tensor:
    """The 1x1 convolution behind the sampling."""
    return F.conv2d(one["sampled"], one["weight"], one["bias"])


def products(sets: list[Tensors]) -> None:
    """The same of all tasks by cuBLAS, without the bias, which an engine adds in the product."""
    for one in sets:
        c = one["sampled"].shape[1]
        torch.mm(one["weight"].view(c, c), one["sampled"].view(c, -1), out=one["out"].view(c, -1))


def demt_contestants(bench: Bench) -> dict[str, Callable[[list[Tensors]], object]]:
    """What is timed, by its name in the table."""

    def ours_and_product(sets: list[Tensors]) -> None:
        bench.sample(sets)
        products(sets)

    def ours_and_cudnn(sets: list[Tensors]) -> None:
        bench.sample(sets)
        for one in sets:
            product(one)

    def half_offsets(sets: list[Tensors]) -> None:
        """With half the bytes: small numbers where a table has the positions."""
        bench.sample(sets, offsets="offset16")

    def half_offsets_and_product(sets: list[Tensors]) -> None:
        half_offsets(sets)
        products(sets)

    def stand_in(sets: list[Tensors]) -> None:
        """What the stock plugin does: columns through the caches, a product, a bias pass."""
        for one in sets:
            c = one["value"].shape[1]
            bench.sample([one], native.DIRECT)
            columns = one["sampled"].view(c, -1)
            (one["weight"].view(c, c) @ columns).add_(one["bias"].view(c, 1))

    def torchvision_half(sets: list[Tensors]) -> None:
        for one in sets:
            by_torchvision(one["value"], one["offset16"], one["weight"], one["bias"])

    def torchvision_float(sets: list[Tensors]) -> None:
        for one in sets:
            by_torchvision(one["value32"], one["offset"], one["weight32"], one["bias32"])

    def dense(sets: list[Tensors]) -> None:
        for one in sets:
            F.conv2d(one["value"], one["weight"], one["bias"])

    def copy(sets: list[Tensors]) -> None:
        """Move as many bytes as the sampling moves at least: offsets, values in, samples out."""
        for one in sets:
            one["into"].copy_(one["from"])

    return {
        "deform_sample": bench.sample,
        "deform_sample + product (cuBLAS)": ours_and_product,
        "deform_sample + product (cuDNN)": ours_and_cudnn,
        "deform_sample, fp16 offsets": half_offsets,
        "deform_sample, fp16 offsets + product (cuBLAS)": half_offsets_and_product,
        "im2col stand-in": stand_in,
        "torchvision fp16": torchvision_half,
        "torchvision fp32": torchvision_float,
        "dense 1x1 (cuDNN)": dense,
        "copy of the same bytes": copy,
    }


# What is deformable of a mixer block: the offsets of 18 maps and of positions, sampling, product.


def mixer(bench: Bench, shape: tuple[int, int, int], tasks: int) -> None:
    """The deformable convolution of a mixer block at `shape` (C, H, W), for each task."""
    c, height, width = shape

    def make() -> list[Tensors]:
        return [mixer_inputs(bench, shape) for _ in range(tasks)]

    sets = make()
    bench.offsets(sets)
    bench.sample(sets, offsets="offset16")
    results = [
        (
            product(one).double(),
            mixer_by_torchvision(one, torch.float64),
            mixer_by_torchvision(one, torch.float16),
        )
        for one in sets
    ]
    row = bench.row(f"mixer {c}x{height}x{width}, {tasks} tasks", "net-init", results)
    row.bytes = tasks * height * width * (4 * c + 36)
    row.flops = tasks * height * width * (2 * c * c + 2 * 2 * c * 81)
    bench.time(row, make, mixer_contestants(bench))


def mixer_contestants(bench: Bench) -> dict[str, Callable[[list[Tensors]], object]]:
    """What is timed, by its name in the table."""

    def whole(sets: list[Tensors]) -> None:
        bench.offsets(sets)
        bench.sample(sets, offsets="offset16")
        products(sets)

    def by_cudnn(sets: list[Tensors]) -> None:
        """The offsets by cuDNN, in half precision."""
        for one in sets:
            one["by_cudnn"] = F.conv2d(one["maps"], one["weight_of_maps"], padding=1, groups=2)

    def by_cudnn_and_sampled(sets: list[Tensors]) -> None:
        by_cudnn(sets)
        bench.sample(sets, offsets="by_cudnn")
        products(sets)

    def torchvision_half(sets: list[Tensors]) -> None:
        for one in sets:
            mixer_by_torchvision(one, torch.float16)

    return {
        "deform_offsets + deform_sample + product": whole,
        "deform_offsets": bench.offsets,
        "deform_sample with positions": lambda sets: bench.sample(sets, offsets="offset16"),
        "offset convolution (cuDNN)": by_cudnn,
        "offset convolution (cuDNN) + deform_sample + product": by_cudnn_and_sampled,
        "offset convolution (cuDNN) + torchvision fp16": torchvision_half,
    }


def mixer_inputs(bench: Bench, shape: tuple[int, int, int]) -> Tensors:
    """The tensors of one task, packed for the kernel and plain for torchvision."""
    c, height, width = shape
    constant = positions(height, width)
    weight_of_maps = torch.empty(2 * c, 9, 3, 3)
    torch.nn.init.kaiming_uniform_(weight_of_maps, a=5**0.5)
    weight_of_maps = weight_of_maps.half().float()
    kernel = weight_of_maps.cpu().numpy()
    table = position_table(kernel, None, constant[0].cpu().numpy())
    one = {
        "value": bench.put(torch.randn(1, c, height, width), torch.float16),
        "maps": bench.put(0.3 * torch.randn(1, 18, height, width), torch.float16),
        "packed": bench.put(torch.tensor(pack(kernel)), torch.float16),
        "position": bench.put(torch.tensor(table), torch.float32),
        "weight": bench.put(torch.randn(c, c, 1, 1) / c**0.5, torch.float16),
        "bias": bench.put(torch.randn(c), torch.float16),
        "weight_of_maps": bench.put(weight_of_maps, torch.float16),
        "constant": bench.put(constant, torch.float16),
    }
    one["sampled"], one["out"] = poisoned(one["value"]), torch.empty_like(one["value"])
    one["offset16"] = poisoned(torch.empty(1, 2 * c, height, width, dtype=torch.float16))
    return one


def mixer_by_torchvision(one: Tensors, dtype: torch.dtype) -> torch.Tensor:
    """The same by PyTorch and torchvision, in `dtype`."""
    maps = one["maps"].to(dtype) + one["constant"].to(dtype)
    offset = F.conv2d(maps, one["weight_of_maps"].to(dtype), padding=1, groups=2)
    value, weight, bias = (one[k].to(dtype) for k in ("value", "weight", "bias"))
    return by_torchvision(value, offset, weight, bias)


# DCNv1 and DCNv2: 3x3, channels last.


def classic(
    bench: Bench,
    kind: str,
    shape: tuple[int, int, int],
    *,
    groups: int = 1,
    batch: int = 1,
    stride: int = 1,
    masked: bool = True,
    tasks: int = 1,
) -> None:
    """A 3x3 deformable convolution from C to C channels at `shape` (C, H, W), for each task.

    Args:
        bench: Launches and measures.
        kind: Kind of offsets: `zero`, or `gauss` with a standard deviation in pixels.
        shape: Channels, height and width of the input.
        groups: Offset groups.
        batch: Number of images.
        stride: Stride on both axes.
        masked: With modulation, which is DCNv2.
        tasks: Convolutions of one launch.
    """
    c, height, width = shape
    out = (height - 1) // stride + 1, (width - 1) // stride + 1
    spread = 0.0 if kind == "zero" else float(kind.split()[1])

    def make() -> list[Tensors]:
        value, offset = (batch, c, height, width), (batch, 18 * groups, *out)
        options = {"spread": spread, "masked": masked}
        return [classic_inputs(bench, value, offset, **options) for _ in range(tasks)]

    geometry = {"stride": stride, "groups": groups}
    sets = make()
    bench.convolution(sets, geometry)
    name = f"dcn{'v2' if masked else 'v1'} 3x3 {batch}x{c}x{height}x{width}"
    several = f", {tasks} tasks" if tasks > 1 else ""
    row = bench.row(
        f"{name}, G {groups}, stride {stride}{several}",
        kind,
        [
            (
                one["convolved"].permute(0, 3, 1, 2).double(),
                classic_by_torchvision(one, torch.float64, stride),
                classic_by_torchvision(one, torch.float16, stride),
            )
            for one in sets
        ],
    )
    row.flops = tasks * 2 * batch * out[0] * out[1] * c * c * 9
    moved = 2 * batch * c * (height * width + out[0] * out[1]) + sets[0]["offset"].nbytes
    row.bytes = tasks * moved
    bench.time(row, make, classic_contestants(bench, geometry, tasks))


def classic_contestants(
    bench: Bench, geometry: dict[str, int], tasks: int
) -> dict[str, Callable[[list[Tensors]], object]]:
    """What is timed, by its name in the table; also the tiles that the bench was asked for."""
    stride = geometry["stride"]
    single = {
        "deform_conv2d, a launch a task": lambda sets: [
            bench.convolution([one], geometry) for one in sets
        ]
    }
    return {
        "deform_conv2d": lambda sets: bench.convolution(sets, geometry),
        **(single if tasks > 1 else {}),
        **{
            f"deform_conv2d {m} x {n}, {splits} splits, variant {variant}": partial(
                by_tile, bench, geometry, (m, n, splits, variant)
            )
            for m, n, splits, variant in bench.tiles
        },
        "torchvision fp16": lambda sets: [
            classic_by_torchvision(one, torch.float16, stride) for one in sets
        ],
        "dense 3x3 (cuDNN, channels last)": lambda sets: [
            F.conv2d(one["value_cl"], one["weight_cl"], one["bias"], stride, 1) for one in sets
        ],
    }


def by_tile(
    bench: Bench, geometry: dict[str, int], tile: tuple[int, int, int, int], sets: list[Tensors]
) -> None:
    """Launch the convolution with a tile of one's own."""
    bench.convolution(sets, geometry, tile)


def classic_inputs(
    bench: Bench,
    value: tuple[int, int, int, int],
    offset: tuple[int, int, int, int],
    *,
    spread: float,
    masked: bool,
) -> Tensors:
    """The tensors of a convolution in both layouts, for shapes of the value and of the offset.

    `spread` is the standard deviation of the offsets in pixels.
    """
    batch, c = value[:2]
    taps, out = offset[1] // 2, offset[2:]
    weight = torch.randn(c, c, 3, 3) / (9 * c) ** 0.5
    one = {
        "value": bench.put(torch.randn(value), torch.float16),
        "offset": bench.put(spread * torch.randn(offset), torch.float32),
        "weight": bench.put(weight, torch.float16),
        "bias": bench.put(torch.randn(c), torch.float16),
    }
    if masked:
        one["mask"] = bench.put(torch.rand(batch, taps, *out), torch.float32)
        one["mask16"] = one["mask"].half()
    one["offset16"] = one["offset"].half()
    one["last"] = one["value"].permute(0, 2, 3, 1).contiguous()
    one["ohwi"] = one["weight"].permute(0, 2, 3, 1).contiguous()
    one["convolved"] = poisoned(bench.put(torch.zeros(batch, *out, c), torch.float16))
    one["value_cl"] = one["value"].to(memory_format=torch.channels_last)
    one["weight_cl"] = one["weight"].to(memory_format=torch.channels_last)
    return one


def classic_by_torchvision(one: Tensors, dtype: torch.dtype, stride: int) -> torch.Tensor:
    """The same convolution by torchvision, in `dtype`."""
    is_half = dtype == torch.float16
    offset = one["offset16"] if is_half else one["offset"].to(dtype)
    mask = None
    if "mask" in one:
        mask = one["mask16"] if is_half else one["mask"].to(dtype)
    tensors = (one["value"].to(dtype), offset, one["weight"].to(dtype), one["bias"].to(dtype))
    return by_torchvision(*tensors, stride=stride, padding=1, mask=mask)
