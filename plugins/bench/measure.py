"""Compiling for one card, replaying as CUDA graphs, and a row of the table."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

PLUGINS = Path(__file__).resolve().parents[1]
SOURCES = (
    "common/launch.cpp",
    "deform_offsets/deform_offsets.cu",
    "deform_sample/deform_sample.cu",
    "deform_conv2d/deform_conv2d.cu",
    "fit_image/fit_image.cu",
    "kernels/degmix_kernels.cpp",
)
REPLAYS = 20
LEAST_US = 200.0
"""A graph with less work than this would show what it costs to launch a graph."""


@dataclass
class Row:
    """One case: errors, then microseconds by contestant, cold and warm."""

    case: str
    offsets: str
    error: float
    error_half_torch: float
    ok: bool
    cold_us: dict[str, float] = field(default_factory=dict)
    warm_us: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    flops: int = 0


def build(folder: Path, capability: int, sources: Sequence[str] = SOURCES) -> Path:
    """Compile the kernels for one compute capability (10 major + minor); the library's path."""
    target = "90a" if capability == 90 else str(capability)  # with instructions of its own
    arch = f"-gencode=arch=compute_{target},code=sm_{target}"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libdegmix_kernels.so"

    def compile_one(source: str) -> str:
        made = folder / (source.replace("/", "_") + ".o")
        options = ["-std=c++17", "-O3", f"-I{PLUGINS}", "-Xcompiler=-fPIC", arch, "-c"]
        subprocess.run(["nvcc", *options, str(PLUGINS / source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor(4) as pool:
        objects = list(pool.map(compile_one, sources))
    subprocess.run(["nvcc", "-shared", arch, *objects, "-o", str(library)], check=True)
    return library


def capture(
    work: Callable[[object], object], inputs: list[object]
) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of the work over every set of inputs, in turn, and how many calls are in it."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        work(inputs[0])
    torch.cuda.synchronize()

    def of(rounds: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(rounds):
                for one in inputs:
                    work(one)
        return graph

    once = of(1)
    rounds = math.ceil(LEAST_US / max(min(replay(once)), 1.0))
    return (once, len(inputs)) if rounds == 1 else (of(rounds), rounds * len(inputs))


def profiled(work: Callable[[object], object], one: object) -> None:
    """One launch between the marks that a profiler waits for, after one that warms up."""
    work(one)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    work(one)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def replay(graph: torch.cuda.CUDAGraph) -> list[float]:
    """Microseconds of each replay."""
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(REPLAYS + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [1e3 * a.elapsed_time(b) for a, b in zip(events, events[1:], strict=False)]


def show(row: Row) -> None:
    """A line a case and contestant."""
    state = "ok" if row.ok else "WRONG"
    print(f"{row.case}; {row.offsets}: error {row.error:.1e} ({row.error_half_torch:.1e}) {state}")
    first = next(iter(row.cold_us.values()), 0.0)
    for name, cold in row.cold_us.items():
        warm = row.warm_us[name]
        rate = f"{row.bytes / warm / 1e3:7.0f} GB/s" if row.bytes else ""
        print(
            f"    {name:<46} {cold:9.1f} us cold {warm:9.1f} us warm  {cold / first:5.2f} x {rate}"
        )
