"""Launching the kernels, measuring their errors, and timing them against contestants."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import degmix_kernels as native
import torch
from measure import Row, capture, profiled, replay, show

ROUNDS = 5
TYPES = {torch.float32: native.FLOAT, torch.float16: native.HALF}
Tensors = dict[str, torch.Tensor]
"""The inputs and outputs of one launch, by name."""


def pointers(tensors: list[torch.Tensor]) -> native.Pointers:
    """The tensors' addresses as the array that the structs hold."""
    return native.Pointers(*[t.data_ptr() for t in tensors])


class Bench:
    """One run: the library, the device, and how launches are timed."""

    def __init__(self, library: Path, device: str, *, profile: str | None = None) -> None:
        self.kernels, self.device, self.profile = native.Kernels(library), device, profile
        self.after_row: Callable[[], None] = lambda: None
        self.tiles: list[tuple[int, int, int, int]] = []  # of deform_conv2d, to be timed too
        self.is_cuda = device == "cuda"
        torch.set_default_device(device)  # random numbers are made where they are used
        self.rows: list[Row] = []

    def stream(self) -> int:
        """The handle of the current stream; 0 on the processor."""
        return torch.cuda.current_stream().cuda_stream if self.is_cuda else 0

    def put(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Copy to the device as `dtype`, contiguous."""
        return tensor.to(self.device, dtype).contiguous()

    # Launches.

    def sample(
        self, sets: list[Tensors], variant: int = native.AUTO, offsets: str = "offset"
    ) -> None:
        """Launch deform_sample once for several maps of one shape.

        The offsets are the tensor of that name; a tensor `position` is added to them.
        """
        value, offset = sets[0]["value"], sets[0][offsets]
        params = native.DeformSampleParams(
            value=pointers([s["value"] for s in sets]),
            offset=pointers([s[offsets] for s in sets]),
            position=pointers([s["position"] for s in sets if "position" in s]),
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

    def offsets(self, sets: list[Tensors]) -> None:
        """Launch deform_offsets once for several mixers of one shape."""
        n, _, height, width = sets[0]["maps"].shape
        params = native.DeformOffsetsParams(
            maps=pointers([s["maps"] for s in sets]),
            weight=pointers([s["packed"] for s in sets]),
            offset=pointers([s["offset16"] for s in sets]),
            items=len(sets),
            n=n,
            c=sets[0]["packed"].shape[0] // 2,
            height=height,
            width=width,
        )
        self.kernels.launch("deform_offsets", params, self.stream())

    def convolution(
        self,
        sets: list[Tensors],
        geometry: dict[str, int],
        tile: tuple[int, int, int, int] = (0,) * 4,
    ) -> None:
        """Launch deform_conv2d once, with channels last, for several maps of one shape.

        `geometry` has `stride` and offset `groups`.

        `tile` has pixels, output channels, splits and variant; zeros leave them to the
        heuristic.
        """
        one = sets[0]
        value, offset, weight = one["last"], one["offset"], one["ohwi"]
        n, height, width, c = value.shape
        params = native.DeformConv2dParams(
            value=pointers([s["last"] for s in sets]),
            weight=pointers([s["ohwi"] for s in sets]),
            offset=pointers([s["offset"] for s in sets]),
            mask=pointers([s["mask"] for s in sets if "mask" in s]),
            bias=pointers([s["bias"] for s in sets]),
            output=pointers([s["convolved"] for s in sets]),
            items=len(sets),
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
            tile_m=tile[0],
            tile_n=tile[1],
            splits=tile[2],
            variant=tile[3],
        )
        self.kernels.launch("deform_conv2d", params, self.stream())

    # Measuring.

    def row(
        self,
        case: str,
        kind: str,
        results: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    ) -> Row:
        """Add a row with the largest relative L2 error of the items of a launch.

        Args:
            case: What was computed.
            kind: Kind of offsets.
            results: For each item what the kernel gave, what is right, in float64, and what the
                same arithmetic gives in half precision.
        """
        errors = [float((got - want).norm() / want.norm()) for got, want, _ in results]
        plain = max(float((half.double() - w).norm() / w.norm()) for _, w, half in results)
        error = max(errors) if all(e == e for e in errors) else float("nan")
        row = Row(case, kind, error, plain, error <= max(2 * plain, 5e-4))
        self.rows.append(row)
        return row

    def time(
        self,
        row: Row,
        make: Callable[[], list[Tensors]],
        contestants: dict[str, Callable[[list[Tensors]], object]],
    ) -> None:
        """Time the contestants in turn on a card: cold and warm medians go into the row.

        The first contestant is ours, and the only one that a profile is made of.
        """
        if self.profile is not None:
            if self.is_cuda and self.profile in row.case:
                profiled(next(iter(contestants.values())), make())
        elif self.is_cuda and row.ok:
            cache = torch.cuda.get_device_properties(0).L2_cache_size
            needed = sum(t.nbytes for one in make() for t in one.values())
            copies = min(max(2, -(-2 * cache // max(needed, 1)) + 1), 24)
            for kind, count in (("cold", copies), ("warm", 1)):
                inputs = [make() for _ in range(count)]
                graphs = {name: capture(work, inputs) for name, work in contestants.items()}
                times: dict[str, list[float]] = {name: [] for name in contestants}
                for _ in range(ROUNDS):
                    for name, (graph, calls) in graphs.items():
                        times[name] += [t / calls for t in replay(graph)]
                medians = {name: statistics.median(found) for name, found in times.items()}
                setattr(row, f"{kind}_us", medians)
        show(row)
        self.after_row()
