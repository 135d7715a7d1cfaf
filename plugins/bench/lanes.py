"""Check lanes, CUDA graphs and foreign arrays over a real driver beside torch, in half a minute.

    python plugins/bench/lanes.py --library build/bench/libdegmix_kernels.so --json lanes.json

Runs the product's own `degmix_edge.nvidia` with one of our kernels in the place of an engine. Needs
numpy, torch, and PyCUDA or cuda-bindings; without `--library` also nvcc. Prints a line a check, and
exits with 1 where one failed. The JSON is written after every check.

`--stand-in LIBCUDA` is a dry run on the processor: LIBCUDA is tests/stand_ins/libcuda.c, compiled,
and `--library` is the emulated kernels.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import faulthandler
import sys
import time
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PLUGINS / "kernels"), str(PLUGINS.parent)]

from lane_checks import CHECKS, NOTES, context, plain  # noqa: E402
from lane_run import Run  # noqa: E402
from partners import StandIn, Torch  # noqa: E402
from sample_engine import EmulatedFit, emulated_launcher, launcher  # noqa: E402

from degmix_edge.nvidia import cuda  # noqa: E402
from degmix_edge.nvidia.frames import FitKernel  # noqa: E402

CALLS = 200
"""Calls of each thread on a card."""
FRAME = (1080, 1920)
"""Height and width of a camera's frame on a card."""


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, help="the kernels; else they are compiled")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--stand-in", type=Path, help="a stand-in for libcuda: a dry run")
    parser.add_argument("--limit", type=float, default=60, help="seconds that all checks may take")
    options = parser.parse_args()
    if options.stand_in is not None and options.library is None:
        parser.error("--stand-in needs the emulated kernels as --library")
    return options


def compiled() -> Path:
    """The kernels, compiled for the card."""
    from measure import build

    device = cuda.Device()
    device.close()
    return build(Path("build/bench"), device.info.compute_capability)


def main() -> int:
    """Run every check; 1 where one failed."""
    options = arguments()
    if options.library is None:
        options.library = compiled()
    start = time.perf_counter()
    if options.stand_in is None:
        launch, kernel, size = launcher(options.library), FitKernel(options.library), FRAME
    else:
        libcuda = ctypes.CDLL(str(options.stand_in), mode=ctypes.RTLD_GLOBAL)
        launch = emulated_launcher(options.library, libcuda)
        kernel, size = EmulatedFit(options.library, libcuda), (54, 96)
    calls = CALLS if options.stand_in is None else 10
    run = Run(launch, options.json, calls, kernel=kernel, size=size)
    run.check("context", context)
    device = cuda.Device()
    run.report["facts"] = dataclasses.asdict(device.info) | {"binding": device.driver.name}
    print(f"{device.info}, driver {device.info.driver}, {device.driver.name}", flush=True)
    device.close()
    run.partner = Torch() if options.stand_in is None else StandIn()
    run.partner.work()
    faulthandler.dump_traceback_later(options.limit, exit=True)  # torch is there by now
    run.report["facts"]["partner"] = run.partner.name
    run.check("kernel without a graph", plain)
    for name, work in CHECKS.items():
        run.check(name, work)
    for name, work in NOTES.items():
        run.note(name, work)
    run.partner.close()
    failed = [check["name"] for check in run.report["checks"] if not check["ok"]]
    run.report["seconds"] = round(time.perf_counter() - start, 1)
    run.write()
    print(f"{len(failed)} of {len(run.report['checks'])} checks failed, {run.report['seconds']} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
