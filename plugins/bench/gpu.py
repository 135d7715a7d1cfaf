"""Build, check and time the kernels on a CUDA card, in one call of a few minutes.

    python plugins/bench/gpu.py --json results.json

Needs nvcc, torch and torchvision, and no network. Correctness comes first: a case whose error
against float64 is larger than twice that of the same arithmetic in half torch is not timed.
Contestants run in turn, as CUDA graphs of at least 200 us, medians of events; cold rows rotate over
inputs of more than twice the L2 cache. The JSON is written after every row, so that a time limit
loses one row at most.

`--quick` times one case of each kernel. `--profile NAME` launches cases with NAME in their names
once, between the marks that `ncu --profile-from-start off` waits for.
`--emulated LIBRARY` checks small cases on the processor and times nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch

PLUGINS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PLUGINS / "kernels"), str(PLUGINS.parent)]

from cases import classic, demt, mixer  # noqa: E402
from frames import camera_frame  # noqa: E402
from harness import Bench  # noqa: E402
from measure import build  # noqa: E402
from offsets import KINDS  # noqa: E402

from degmix_edge.camera import KERNEL_FORMATS  # noqa: E402

SIZES = {1: ((128, 256), (128, 128), (64, 128), (128, 64)), 2: ((128, 256), (128, 128), (128, 64))}
TILES = [
    (m, n, splits, variant)
    for variant, sizes in SIZES.items()
    for m, n in sizes
    for splits in (1, 2, 3, 4, 6, 8)
]
"""Pixels, output channels, splits and variant of deform_conv2d."""


def small_cases(bench: Bench) -> None:
    """One small case of every kind, for the processor."""
    for kind in KINDS:
        demt(bench, kind, (16, 10, 12), 2)
    mixer(bench, (64, 9, 19), 2)
    mixer(bench, (32, 9, 16), 2)
    classic(bench, "gauss 2 px", (32, 9, 11), groups=2, batch=2, stride=2)
    classic(bench, "gauss 2 px", (32, 9, 11), tasks=2)
    for kind in KERNEL_FORMATS:
        camera_frame(bench, kind, (54, 96), (32, 48))


def all_cases(bench: Bench) -> None:
    """Every case of the published table, for a card."""
    for kind in KINDS:
        demt(bench, kind, (256, 112, 144), 4)
    for shape, tasks in (((256, 128, 128), 1), ((256, 112, 144), 1), ((256, 28, 36), 8)):
        demt(bench, "net-init", shape, tasks)
    for shape, tasks in (((256, 112, 144), 4), ((256, 28, 36), 8)):
        mixer(bench, shape, tasks)
    for shape in ((64, 128, 128), (128, 64, 64), (256, 64, 64), (512, 16, 16)):
        classic(bench, "gauss 2 px", shape)
    classic(bench, "gauss 2 px", (256, 112, 144))
    classic(bench, "gauss 30 px", (256, 64, 64))
    classic(bench, "zero", (256, 64, 64), masked=False)
    classic(bench, "gauss 2 px", (256, 64, 64), groups=4, batch=8)
    classic(bench, "gauss 2 px", (256, 64, 64), stride=2)
    for shape, tasks in (
        ((256, 28, 36), 4),
        ((256, 28, 36), 8),
        ((128, 56, 72), 4),
        ((64, 56, 72), 6),
        ((256, 56, 72), 3),
    ):
        classic(bench, "gauss 2 px", shape, tasks=tasks)
    for kind in KERNEL_FORMATS:
        camera_frame(bench, kind, (1080, 1920), (448, 576))
    camera_frame(bench, "nv12", (2160, 3840), (448, 576))
    camera_frame(bench, "nv12", (720, 1280), (448, 576))


def quick_cases(bench: Bench) -> None:
    """One case of each kernel, at the size of DeMTG and of a classic network."""
    for tasks in (4, 1):
        demt(bench, "net-init", (256, 112, 144), tasks)
    mixer(bench, (256, 112, 144), 4)
    classic(bench, "gauss 2 px", (256, 64, 64))
    for kind in ("nv12", "rgb"):
        camera_frame(bench, kind, (1080, 1920), (448, 576))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every row there")
    parser.add_argument(
        "--build", type=Path, default=Path("build/bench"), help="folder for objects"
    )
    parser.add_argument(
        "--emulated", type=Path, help="a library for the processor: check, no times"
    )
    parser.add_argument("--library", type=Path, help="use this library; nothing is compiled")
    parser.add_argument("--quick", action="store_true", help="one case of each kernel")
    parser.add_argument(
        "--tiles", action="store_true", help="time every tile and split of deform_conv2d"
    )
    parser.add_argument("--profile", metavar="NAME", help="launch these cases once, for ncu")
    return parser.parse_args()


def save(path: Path | None, bench: Bench) -> None:
    """Write every row so far."""
    if path is None:
        return
    where = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
    }
    if bench.is_cuda:
        where |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    rows = [asdict(row) for row in bench.rows]
    path.write_text(json.dumps({**where, "rows": rows}, indent=1))


def main() -> int:
    """Run everything; return 1 if a case is wrong, 2 without a card."""
    asked = arguments()
    torch.manual_seed(0)
    if asked.emulated:
        bench = Bench(asked.emulated, "cpu")
        bench.after_row = lambda: save(asked.json, bench)
        small_cases(bench)
    elif not torch.cuda.is_available():
        print("no CUDA device here; --emulated LIBRARY checks small cases on the processor")
        return 2
    else:
        major, minor = torch.cuda.get_device_capability()
        library = asked.library or build(asked.build, 10 * major + minor)
        bench = Bench(library, "cuda", profile=asked.profile)
        bench.after_row = lambda: save(asked.json, bench)
        if asked.tiles:
            hopper = torch.cuda.get_device_capability() == (9, 0)
            bench.tiles = [tile for tile in TILES if hopper or tile[2:] == (1, 1)]
        (quick_cases if asked.quick else all_cases)(bench)
    wrong = [f"{row.case}; {row.offsets}" for row in bench.rows if not row.ok]
    print(f"{len(bench.rows)} cases, {len(wrong)} wrong" + "".join(f"\n  {name}" for name in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
