"""The cards of the time model: what a multiprocessor does in a clock, with sources.

Bandwidth, peak rates and the cost of a launch are in `degmix_edge/graph/devices.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024
COPY = 0.79
"""Share of the data sheet's bandwidth that a copy reaches: 2.66 of 3.35 TB/s on an H100."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One card. Rates are of a multiprocessor and a clock.

    Attributes:
        title: Its name in tables.
        device: Its name in `devices.yaml`.
        architecture: Compute capability: ten times the major number plus the minor one.
        multiprocessors: How many there are.
        clock_ghz: Their clock under load.
        memory_rate: Instructions of a warp that load and store units begin.
        special_rate: Instructions of a warp that special units begin: MUFU, F2I, I2F.
        tensor_rate: Multiply-adds of FP16 with FP32 sums that `mma.sync` reaches.
        copy_share: Share of the bandwidth in `devices.yaml` that a copy reaches; 1 where the
            bandwidth was measured by a copy.
        shared_bytes: Shared memory, of which a block gets all but 1 KB.
        warps: Warps that can be resident.
        source: Source of the figures.
    """

    title: str
    device: str
    architecture: int
    multiprocessors: int
    clock_ghz: float
    memory_rate: float
    special_rate: float
    tensor_rate: float
    copy_share: float
    shared_bytes: int
    warps: int
    source: str


CARDS = (
    Card(
        title="Orin AGX 64 GB",
        device="orin-agx",
        architecture=87,
        multiprocessors=16,
        clock_ghz=1.3,
        memory_rate=0.5,
        special_rate=0.5,
        tensor_rate=1024,
        copy_share=COPY,
        shared_bytes=164 * KB,
        warps=48,
        source="Jetson AGX Orin data sheet; load and store units are assumed to be GA102's",
    ),
    Card(
        title="Thor",
        device="thor",
        architecture=110,
        multiprocessors=20,
        clock_ghz=1.575,
        memory_rate=1,
        special_rate=0.5,
        tensor_rate=1024,
        copy_share=COPY,
        shared_bytes=228 * KB,
        warps=64,
        source="Jetson Thor data sheet; load and store units are assumed to be H100's, and "
        "mma.sync to reach a quarter of the tensor cores' rate",
    ),
    Card(
        title="RTX 4090",
        device="rtx4090",
        architecture=89,
        multiprocessors=128,
        clock_ghz=2.52,
        memory_rate=0.5,
        special_rate=0.5,
        tensor_rate=256,
        copy_share=COPY,
        shared_bytes=100 * KB,
        warps=48,
        source="Ada GPU architecture white paper, boost clock",
    ),
    Card(
        title="H100",
        device="h100",
        architecture=90,
        multiprocessors=132,
        clock_ghz=1.83,
        memory_rate=1,
        special_rate=0.5,
        tensor_rate=1288,
        copy_share=1.0,
        shared_bytes=228 * KB,
        warps=64,
        source="units and clock by Nsight Compute, bandwidth by a copy; mma.sync reaches 63 % of "
        "the data sheet's 2048 multiply-adds in published microbenchmarks",
    ),
)
