"""Time deform_sample's layouts of shared memory against each other on a CUDA card.

    python plugins/bench/layouts.py --json layouts.json

A data-center card has shared memory for several blocks of either layout, where an RTX 40 has it
for one block with words and two with compact planes. So each layout is also timed in blocks that
ask for more shared memory than they use, until a multiprocessor holds one of them, or two.

Needs nvcc, torch and torchvision, and no network; `--library` takes a built library instead of
nvcc. `--emulated LIBRARY` checks small cases on the processor and times nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch

PLUGINS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PLUGINS / "kernels"), str(PLUGINS.parent)]

import degmix_kernels as native  # noqa: E402
from cases import demt_inputs  # noqa: E402
from harness import Bench, Tensors  # noqa: E402
from measure import SOURCES, build  # noqa: E402
from torchvision.ops import deform_conv2d as by_torchvision  # noqa: E402

SAMPLE = "deform_sample/deform_sample.cu"
PADDED = [name if name != SAMPLE else "bench/padded_sample.cu" for name in SOURCES]
LAYOUTS = {"words": native.SHARED, "compact": native.COMPACT, "caches": native.DIRECT}
OFFSETS = {"fp32": "offset", "fp16": "offset16"}


class Padded(native.Kernels):
    """The library of `padded_sample.cu`: `least_bytes` is what a block asks for at least."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.least_bytes = 0
        self.library.degmix_deform_sample_padded.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]

    def launch(self, name: str, params: ctypes.Structure, stream: int = 0) -> None:
        """Launch as the base class does, or deform_sample with more shared memory."""
        if name != "deform_sample" or not self.least_bytes:
            super().launch(name, params, stream)
            return
        address = ctypes.addressof(params)
        status = self.library.degmix_deform_sample_padded(address, self.least_bytes, stream)
        if status != 0:
            raise RuntimeError(f"{name} with {self.least_bytes} bytes: CUDA error {status}")


def shared_bytes(bench: Bench) -> int:
    """Bytes of shared memory of a multiprocessor; on the processor, those of an H100."""
    if not bench.is_cuda:
        return native.H200.shared_bytes_per_multiprocessor
    return torch.cuda.get_device_properties(0).shared_memory_per_multiprocessor


def sample(
    bench: Bench, layout: str, offsets: str, blocks: int | None, sets: list[Tensors]
) -> None:
    """Launch a layout so that a multiprocessor holds at most so many blocks, or as many as it can.

    A block asks for so much that one more does not fit, with the card's 1 KB for each.
    """
    bench.kernels.least_bytes = 0 if blocks is None else shared_bytes(bench) // (blocks + 1)
    bench.sample(sets, LAYOUTS[layout], OFFSETS[offsets])
    bench.kernels.least_bytes = 0


def contestants(
    bench: Bench, layouts: tuple[str, ...], most: tuple[int | None, ...]
) -> dict[str, Callable[[list[Tensors]], None]]:
    """Each layout with each type of offsets and each number of blocks, by its name in the table."""
    return {
        f"{layout}, {offsets} offsets, {f'{blocks} a multiprocessor' if blocks else 'as is'}": (
            partial(sample, bench, layout, offsets, blocks)
        )
        for offsets in OFFSETS
        for layout in layouts
        for blocks in (most if layout != "caches" else (None,))
    }


def compare(
    bench: Bench,
    kind: str,
    shape: tuple[int, int, int],
    tasks: int,
    *,
    layouts: tuple[str, ...],
    most: tuple[int | None, ...],
) -> None:
    """Check every contestant against float64, and time them, at `shape` (C, H, W)."""
    c, height, width = shape

    def make() -> list[Tensors]:
        return [demt_inputs(bench, kind, shape) for _ in range(tasks)]

    found = contestants(bench, layouts, most)
    sets = make()
    results = []
    for name, work in found.items():
        work(sets)
        used = OFFSETS["fp16" if "fp16" in name else "fp32"]
        results += [(one["sampled"].double(), exact(one, used), plain(one)) for one in sets[:1]]
    row = bench.row(f"layouts {c}x{height}x{width}, {tasks} tasks", kind, results)
    row.bytes = tasks * c * height * width * (2 + 2 + 8)
    bench.time(row, make, found)


def exact(one: Tensors, offsets: str) -> torch.Tensor:
    """The samples in float64, as a convolution whose weights are an identity."""
    eye = torch.eye(one["value"].shape[1], dtype=torch.float64)[:, :, None, None]
    return by_torchvision(one["value"].double(), one[offsets].double(), eye)


def plain(one: Tensors) -> torch.Tensor:
    """The same in half precision."""
    eye = torch.eye(one["value"].shape[1], dtype=torch.float16)[:, :, None, None]
    return by_torchvision(one["value"], one["offset16"], eye)


def run(bench: Bench, *, is_small: bool) -> None:
    """Every case: DeMT's map in both layouts, and a map that fits in one of them alone."""
    both, one_fits = ("words", "compact"), ("compact", "caches")
    limited = (None, 1, 2)
    if is_small:
        compare(bench, "gauss 2 px", (8, 10, 12), 2, layouts=both, most=limited)
        compare(bench, "gauss 2 px", (2, 224, 288), 1, layouts=one_fits, most=(None,))
        return
    for kind in ("net-init", "gauss 2 px", "gauss 30 px"):
        compare(bench, kind, (256, 112, 144), 4, layouts=both, most=limited)
    compare(bench, "net-init", (256, 112, 144), 1, layouts=both, most=limited)
    for kind in ("net-init", "gauss 2 px"):
        compare(bench, kind, (256, 224, 288), 1, layouts=one_fits, most=(None,))


def save(path: Path | None, bench: Bench) -> None:
    """Write every row so far."""
    if path is not None:
        where = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        where["torch"] = torch.__version__
        where["card"] = torch.cuda.get_device_name() if bench.is_cuda else "none"
        rows = [asdict(row) for row in bench.rows]
        path.write_text(json.dumps({**where, "rows": rows}, indent=1))


def main() -> int:
    """Run everything; return 1 if a case is wrong, 2 without a card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every row there")
    parser.add_argument("--build", type=Path, default=Path("build/layouts"), help="for objects")
    parser.add_argument("--library", type=Path, help="use this library; nothing is compiled")
    parser.add_argument("--emulated", type=Path, help="a library for the processor")
    asked = parser.parse_args()
    torch.manual_seed(0)
    if not asked.emulated and not torch.cuda.is_available():
        print("no CUDA device here; --emulated LIBRARY checks small cases on the processor")
        return 2
    library = asked.emulated or asked.library
    if library is None:
        major, minor = torch.cuda.get_device_capability()
        library = build(asked.build, 10 * major + minor, PADDED)
    bench = Bench(library, "cpu" if asked.emulated else "cuda")
    bench.kernels = Padded(library)
    bench.after_row = lambda: save(asked.json, bench)
    run(bench, is_small=bool(asked.emulated))
    wrong = [f"{row.case}; {row.offsets}" for row in bench.rows if not row.ok]
    print(f"{len(bench.rows)} cases, {len(wrong)} wrong" + "".join(f"\n  {name}" for name in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
