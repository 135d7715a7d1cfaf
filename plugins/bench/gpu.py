"""Build, check and time the kernels on a CUDA card, in one call of a few minutes.

    python plugins/bench/gpu.py --json results.json

Needs nvcc, torch and torchvision, and no network. Correctness comes first: a case whose error
against float64 is larger than twice that of the same arithmetic in half torch is not timed.
Contestants run in turn, as CUDA graphs, medians of events; cold rows rotate over inputs of more
than twice the L2 cache.
`--emulated LIBRARY` checks small cases on the processor and times nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torchvision.ops import deform_conv2d as by_torchvision

PLUGINS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PLUGINS / "kernels"), str(PLUGINS.parent)]

import degmix_kernels as native  # noqa: E402
from measure import Row, build, capture, replay, show  # noqa: E402
from offsets import KINDS, per_channel_offsets, positions  # noqa: E402

from degmix_edge.ops.deform_sample_fused import pack, pack_expansion, position_table  # noqa: E402

ROUNDS = 5
TYPES = {torch.float32: native.FLOAT, torch.float16: native.HALF}


def pointers(tensors: list[torch.Tensor]) -> native.Pointers:
    """Addresses, in the struct's array."""
    return native.Pointers(*[t.data_ptr() for t in tensors])


class Bench:
    """One run: the library, the device, and how launches are timed."""

    def __init__(self, library: Path, device: str) -> None:
        self.kernels, self.device = native.Kernels(library), device
        self.is_cuda = device == "cuda"
        torch.set_default_device(device)  # random numbers are made where they are used
        self.rows: list[Row] = []

    def stream(self) -> int:
        """The current one's handle."""
        return torch.cuda.current_stream().cuda_stream if self.is_cuda else 0

    def put(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """On the device, contiguous."""
        return tensor.to(self.device, dtype).contiguous()

    # Launches.

    def sample(self, sets: list[dict[str, torch.Tensor]], variant: int = native.AUTO) -> None:
        """deform_sample of several maps in one launch."""
        value, offset = sets[0]["value"], sets[0]["offset"]
        params = native.DeformSampleParams(
            value=pointers([s["value"] for s in sets]),
            offset=pointers([s["offset"] for s in sets]),
            output=pointers([s["sampled"] for s in sets]),
            items=len(sets),
            n=value.shape[0],
            c=value.shape[1],
            height=value.shape[2],
            width=value.shape[3],
            out_height=value.shape[2],
            out_width=value.shape[3],
            value_type=TYPES[value.dtype],
            offset_type=TYPES[offset.dtype],
            variant=variant,
        )
        self.kernels.launch("deform_sample", params, self.stream())

    def fused(self, sets: list[dict[str, torch.Tensor]]) -> None:
        """The whole tail of a mixer block, of several in one launch."""
        n, c, height, width = sets[0]["value"].shape
        names = ("value", "maps", "expand", "position", "product", "bias", "scale", "shift")
        params = native.DeformSampleFusedParams(
            **{name: pointers([s[name] for s in sets]) for name in names},
            output=pointers([s["mixed"] for s in sets]),
            items=len(sets),
            n=n,
            c=c,
            height=height,
            width=width,
            activation=native.ACTIVATIONS["gelu"],
            residual=1,
        )
        self.kernels.launch("deform_sample_fused", params, self.stream())

    def convolution(self, one: dict[str, torch.Tensor], geometry: dict[str, int]) -> None:
        """deform_conv2d with channels last."""
        value, offset, weight = one["last"], one["offset"], one["ohwi"]
        n, height, width, c = value.shape
        mask = one.get("mask")
        params = native.DeformConv2dParams(
            value=value.data_ptr(),
            weight=weight.data_ptr(),
            offset=offset.data_ptr(),
            mask=None if mask is None else mask.data_ptr(),
            bias=one["bias"].data_ptr(),
            output=one["convolved"].data_ptr(),
            n=n,
            c=c,
            height=height,
            width=width,
            out_channels=weight.shape[0],
            out_height=offset.shape[2],
            out_width=offset.shape[3],
            kernel_height=weight.shape[1],
            kernel_width=weight.shape[2],
            stride_height=geometry["stride"],
            stride_width=geometry["stride"],
            pad_top=1,
            pad_left=1,
            dilation_height=1,
            dilation_width=1,
            groups=1,
            offset_groups=geometry["groups"],
            value_type=TYPES[value.dtype],
            offset_type=TYPES[offset.dtype],
            bias_type=TYPES[one["bias"].dtype],
            output_type=TYPES[value.dtype],
            value_layout=native.CHANNELS_LAST,
            output_layout=native.CHANNELS_LAST,
            value_pitch=c,
            output_pitch=weight.shape[0],
        )
        self.kernels.launch("deform_conv2d", params, self.stream())

    # Cases.

    def demt(self, kind: str, shape: tuple[int, int, int], tasks: int) -> None:
        """DeMT's call: 1x1, an offset pair a channel, FP16 values, FP32 offsets."""
        c, height, width = shape

        def make() -> list[dict[str, torch.Tensor]]:
            found = []
            for _ in range(tasks):
                value = torch.randn(1, c, height, width)
                weight = torch.randn(c, c, 1, 1) / c**0.5
                one = {
                    "value": self.put(value, torch.float16),
                    "offset": self.put(
                        per_channel_offsets(kind, 1, c, height, width), torch.float32
                    ),
                    "weight": self.put(weight, torch.float16),
                    "bias": self.put(torch.randn(c), torch.float16),
                }
                one["offset16"] = one["offset"].half()
                one["sampled"] = torch.empty_like(one["value"])
                found.append(one)
            return found

        def product(one: dict[str, torch.Tensor]) -> torch.Tensor:
            return F.conv2d(one["sampled"], one["weight"], one["bias"])

        def ours(sets: list[dict[str, torch.Tensor]]) -> None:
            self.sample(sets)

        def ours_and_product(sets: list[dict[str, torch.Tensor]]) -> None:
            self.sample(sets)
            for one in sets:
                product(one)

        def stand_in(sets: list[dict[str, torch.Tensor]]) -> None:
            """What the stock plugin does: columns through the caches, a product, a bias pass."""
            for one in sets:
                self.sample([one], native.DIRECT)
                columns = one["sampled"].view(c, -1)
                (one["weight"].view(c, c) @ columns).add_(one["bias"].view(c, 1))

        def torchvision_half(sets: list[dict[str, torch.Tensor]]) -> None:
            for one in sets:
                by_torchvision(one["value"], one["offset16"], one["weight"], one["bias"])

        def torchvision_float(sets: list[dict[str, torch.Tensor]]) -> None:
            for one in sets:
                by_torchvision(one["value32"], one["offset"], one["weight32"], one["bias32"])

        def dense(sets: list[dict[str, torch.Tensor]]) -> None:
            for one in sets:
                F.conv2d(one["value"], one["weight"], one["bias"])

        def copy(sets: list[dict[str, torch.Tensor]]) -> None:
            """As many bytes as the sampling moves at least: offsets, values in, samples out."""
            for one in sets:
                one["into"].copy_(one["from"])

        one = make()[:1]
        self.sample(one)
        got = product(one[0]).double()
        want = by_torchvision(*(one[0][k].double() for k in ("value", "offset", "weight", "bias")))
        half = by_torchvision(*(one[0][k] for k in ("value", "offset16", "weight", "bias")))
        row = self.row(f"demt {c}x{height}x{width}, {tasks} tasks", kind, got, want, half)
        moved = c * height * width * (2 + 2 + 8)
        row.bytes, row.flops = tasks * moved, tasks * 2 * c * c * height * width

        def whole() -> list[dict[str, torch.Tensor]]:
            sets = make()
            for one in sets:
                for name in ("value", "weight", "bias"):
                    one[f"{name}32"] = one[name].float()
                one["from"] = torch.empty(moved // 2, dtype=torch.uint8, device=self.device)
                one["into"] = torch.empty_like(one["from"])
            return sets

        self.time(
            row,
            whole,
            {
                "deform_sample": ours,
                "deform_sample + product": ours_and_product,
                "im2col stand-in": stand_in,
                "torchvision fp16": torchvision_half,
                "torchvision fp32": torchvision_float,
                "dense 1x1 (cuDNN)": dense,
                "copy of the same bytes": copy,
            },
        )

    def mixer(self, shape: tuple[int, int, int], tasks: int) -> None:
        """The tail of a mixer block: offsets, sampling, product, GELU, norm, residual."""
        c, height, width = shape
        constant = positions(height, width)

        def make() -> list[dict[str, torch.Tensor]]:
            found = []
            for _ in range(tasks):
                expand = torch.empty(2 * c, 9, 3, 3)
                torch.nn.init.kaiming_uniform_(expand, a=5**0.5)
                expand = expand.half().float()
                weight = (torch.randn(c, c) / c**0.5).half()
                packed = pack_expansion(expand.cpu().numpy())
                table = position_table(expand.cpu().numpy(), None, constant[0].cpu().numpy())
                one = {
                    "value": self.put(torch.randn(1, c, height, width), torch.float16),
                    "maps": self.put(0.3 * torch.randn(1, 18, height, width), torch.float16),
                    "expand": self.put(torch.tensor(packed), torch.float16),
                    "position": self.put(torch.tensor(table), torch.float32),
                    "product": self.put(torch.tensor(pack(weight.cpu().numpy())), torch.float16),
                    "weight": self.put(weight.view(c, c, 1, 1), torch.float16),
                    "plain": self.put(expand, torch.float16),
                    "constant": self.put(constant, torch.float16),
                }
                for name in ("bias", "scale", "shift"):
                    one[name] = self.put(torch.randn(c), torch.float32)
                one["mixed"] = torch.empty_like(one["value"])
                found.append(one)
            return found

        def pieces(one: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
            value, weight = one["value"].to(dtype), one["weight"].to(dtype)
            maps = one["maps"].to(dtype) + one["constant"].to(dtype)
            offset = F.conv2d(maps, one["plain"].to(dtype), padding=1, groups=2)
            mixed = F.gelu(by_torchvision(value, offset, weight, one["bias"].to(dtype)))
            scale, shift = (one[k].to(dtype).view(-1, 1, 1) for k in ("scale", "shift"))
            return mixed * scale + shift + value

        (one,) = make()[:1]
        self.fused([one])
        row = self.row(
            f"mixer tail {c}x{height}x{width}, {tasks} tasks",
            "net-init",
            one["mixed"].double(),
            pieces(one, torch.float64),
            pieces(one, torch.float16),
        )
        row.bytes = tasks * height * width * (4 * c + 36)
        row.flops = tasks * height * width * (2 * c * c + 2 * 2 * c * 81)
        self.time(
            row,
            make,
            {
                "deform_sample_fused": self.fused,
                "torchvision fp16 + offset convolution + tail": lambda sets: [
                    pieces(one, torch.float16) for one in sets
                ],
            },
        )

    def classic(
        self,
        kind: str,
        c: int,
        side: tuple[int, int],
        groups: int,
        batch: int,
        stride: int,
        masked: bool,
    ) -> None:
        """DCNv1 and DCNv2: 3x3, channels last."""
        height, width = side
        out = (height - 1) // stride + 1, (width - 1) // stride + 1
        spread = {"zero": 0.0}.get(
            kind, float(kind.split()[1]) if kind.startswith("gauss") else 2.0
        )

        def make() -> list[dict[str, torch.Tensor]]:
            weight = torch.randn(c, c, 3, 3) / (9 * c) ** 0.5
            one = {
                "value": self.put(torch.randn(batch, c, height, width), torch.float16),
                "offset": self.put(spread * torch.randn(batch, 18 * groups, *out), torch.float32),
                "weight": self.put(weight, torch.float16),
                "bias": self.put(torch.randn(c), torch.float16),
            }
            if masked:
                one["mask"] = self.put(torch.rand(batch, 9 * groups, *out), torch.float32)
                one["mask16"] = one["mask"].half()
            one["offset16"] = one["offset"].half()
            one["last"] = one["value"].permute(0, 2, 3, 1).contiguous()
            one["ohwi"] = one["weight"].permute(0, 2, 3, 1).contiguous()
            one["convolved"] = torch.empty(batch, *out, c, dtype=torch.float16, device=self.device)
            one["value_cl"] = one["value"].to(memory_format=torch.channels_last)
            one["weight_cl"] = one["weight"].to(memory_format=torch.channels_last)
            return [one]

        def theirs(one: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
            offset = one["offset16"] if dtype == torch.float16 else one["offset"].to(dtype)
            mask = None
            if masked:
                mask = one["mask16"] if dtype == torch.float16 else one["mask"].to(dtype)
            tensors = (
                one["value"].to(dtype),
                offset,
                one["weight"].to(dtype),
                one["bias"].to(dtype),
            )
            return by_torchvision(*tensors, stride=stride, padding=1, mask=mask)

        geometry = {"stride": stride, "groups": groups}
        (one,) = make()
        self.convolution(one, geometry)
        name = f"dcn{'v2' if masked else 'v1'} 3x3 {batch}x{c}x{height}x{width}"
        row = self.row(
            f"{name}, G {groups}, stride {stride}",
            kind,
            one["convolved"].permute(0, 3, 1, 2).double(),
            theirs(one, torch.float64),
            theirs(one, torch.float16),
        )
        row.flops = 2 * batch * out[0] * out[1] * c * c * 9
        row.bytes = 2 * batch * c * (height * width + out[0] * out[1]) + one["offset"].nbytes
        self.time(
            row,
            make,
            {
                "deform_conv2d": lambda sets: self.convolution(sets[0], geometry),
                "torchvision fp16": lambda sets: theirs(sets[0], torch.float16),
                "dense 3x3 (cuDNN, channels last)": lambda sets: F.conv2d(
                    sets[0]["value_cl"], sets[0]["weight_cl"], sets[0]["bias"], stride, 1
                ),
            },
        )

    # Measuring.

    def row(
        self, case: str, kind: str, got: torch.Tensor, want: torch.Tensor, half: torch.Tensor
    ) -> Row:
        """Errors, relative L2, against float64."""
        error = float((got - want).norm() / want.norm())
        plain = float((half.double() - want).norm() / want.norm())
        row = Row(case, kind, error, plain, error <= max(2 * plain, 5e-4) and error == error)
        self.rows.append(row)
        return row

    def time(
        self,
        row: Row,
        make: Callable[[], list[dict[str, torch.Tensor]]],
        contestants: dict[str, Callable[[list[dict[str, torch.Tensor]]], object]],
    ) -> None:
        """Cold and warm medians of each contestant, in turn."""
        if self.is_cuda and row.ok:
            cache = torch.cuda.get_device_properties(0).L2_cache_size
            needed = sum(t.nbytes for one in make() for t in one.values())
            copies = min(max(2, -(-2 * cache // max(needed, 1)) + 1), 24)
            for kind, count in (("cold", copies), ("warm", 1)):
                inputs = [make() for _ in range(count)]
                graphs = {name: capture(work, inputs) for name, work in contestants.items()}
                times: dict[str, list[float]] = {name: [] for name in contestants}
                for _ in range(ROUNDS):
                    for name, graph in graphs.items():
                        times[name] += [t / count for t in replay(graph)]
                medians = {name: statistics.median(found) for name, found in times.items()}
                setattr(row, f"{kind}_us", medians)
        show(row)


def main() -> int:
    """Run everything; 1 if a case is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every row there")
    parser.add_argument(
        "--build", type=Path, default=Path("build/bench"), help="folder for objects"
    )
    parser.add_argument(
        "--emulated", type=Path, help="a library for the processor: check, no times"
    )
    asked = parser.parse_args()
    torch.manual_seed(0)
    if asked.emulated:
        bench = Bench(asked.emulated, "cpu")
        for kind in KINDS:
            bench.demt(kind, (16, 10, 12), 2)
        bench.mixer((64, 9, 19), 2)
        bench.classic("gauss 2 px", 32, (9, 11), 2, 2, 2, True)
    elif not torch.cuda.is_available():
        print("no CUDA device here; --emulated LIBRARY checks small cases on the processor")
        return 2
    else:
        major, minor = torch.cuda.get_device_capability()
        bench = Bench(build(asked.build, 10 * major + minor), "cuda")
        for kind in KINDS:
            bench.demt(kind, (256, 112, 144), 4)
        for shape, tasks in (((256, 128, 128), 1), ((256, 112, 144), 1), ((256, 28, 36), 8)):
            bench.demt("net-init", shape, tasks)
        for shape, tasks in (((256, 112, 144), 4), ((256, 28, 36), 8)):
            bench.mixer(shape, tasks)
        for c, side in ((64, (128, 128)), (128, (64, 64)), (256, (64, 64)), (512, (16, 16))):
            bench.classic("gauss 2 px", c, side, 1, 1, 1, True)
        bench.classic("gauss 2 px", 256, (112, 144), 1, 1, 1, True)
        bench.classic("gauss 30 px", 256, (64, 64), 1, 1, 1, True)
        bench.classic("zero", 256, (64, 64), 1, 1, 1, False)
        bench.classic("gauss 2 px", 256, (64, 64), 4, 8, 1, True)
        bench.classic("gauss 2 px", 256, (64, 64), 1, 1, 2, True)
    where = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
    }
    if bench.is_cuda:
        where |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    if asked.json:
        rows = [asdict(row) for row in bench.rows]
        asked.json.write_text(json.dumps({**where, "rows": rows}, indent=1))
    wrong = [f"{row.case}; {row.offsets}" for row in bench.rows if not row.ok]
    print(f"{len(bench.rows)} cases, {len(wrong)} wrong" + "".join(f"\n  {name}" for name in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
