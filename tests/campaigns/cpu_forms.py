"""Process CPU time of every form of a network on this machine's CPU, in alternating rounds.

    python tests/campaigns/cpu_forms.py degmix_tiny --rounds 12
    python tests/campaigns/cpu_forms.py best.safetensors --budget 1% --rounds 3

A machine that others share disturbs wall time, and CPU time of one thread hardly. Each row is one
backend and precision with our passes, or without those for heads and grids. A call takes bytes and
gives maps; a frame is a whole call of a session on a photograph of 640x480: resizing, the network,
and maps at the photograph's size. Peak memory is that of a process of its own. The last columns are
each task's difference from the FP32 maps of ONNX Runtime over photographs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from peak_memory import peak_mib
from PIL import Image

from degmix_edge import backends
from degmix_edge.bundle.golden import worst_differences
from degmix_edge.passes import lower_deform_to_gridsample, resize_to_matmul
from degmix_edge.runtime import Session
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.sources import images

CALLS = 4
"""Timed calls of a form in a round, behind one that does not count."""


def engines(network: str, budget: str | None, calibration: str) -> tuple:
    """Return the engines by name, the spec, the fit, and what a backend takes of photographs."""
    options = Options(precision="auto", calibration=calibration, budget=budget)
    base = Build(network, options, None).run(until="images")
    feeds = [one.feed(base._fit, base.spec) for one in images("photos", base._fit)]
    built = {}
    for backend in map(backends.find, backends.CPU):
        for precision in backend.precisions():
            made = base._fork(precision=precision, backend=backend.name)
            if made._asked is not None:
                made._asked = replace(made._asked, backend=backend.name)
            product = made.run(until="quantize").product
            parts = (product.model, product.recipe, product.ranges)
            built[f"{backend.name} {precision}"] = backend.build(*parts)[backend.engine_file]
            with plain_passes():
                name = f"{backend.name} {precision}, without"
                built[name] = backend.build(*parts)[backend.engine_file]
    return built, made.spec, base._fit, feeds


class plain_passes:  # noqa: N801  # used as a function
    """Leave the passes of heads and grids out."""

    def __enter__(self) -> None:
        """Switch them off."""
        lowering = lower_deform_to_gridsample._Lowering
        self.saved = resize_to_matmul.MOST, lowering._fold
        resize_to_matmul.MOST = 0
        lowering._fold = lambda self, steps: False

    def __exit__(self, *error: object) -> None:
        """Switch them on."""
        lowering = lower_deform_to_gridsample._Lowering
        resize_to_matmul.MOST, lowering._fold = self.saved


def photograph() -> np.ndarray:
    """Return a photograph as a camera of 640x480 gives it."""
    import skimage.data

    return np.asarray(Image.fromarray(skimage.data.coffee()).resize((640, 480)))


def timed(call: Callable[[int], object]) -> list[float]:
    """Return the CPU milliseconds of `CALLS` calls, behind one that does not count."""
    call(0)
    taken = []
    for index in range(CALLS):
        start = time.process_time()
        call(index)
        taken.append(1e3 * (time.process_time() - start))
    return taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--budget")
    parser.add_argument("--calibration", default="synthetic:32")
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    built, spec, fit, feeds = engines(asked.network, asked.budget, asked.calibration)
    taken: dict[str, list[float]] = {name: [] for name in built}
    frames: dict[str, list[float]] = {name: [] for name in built}
    photo, maps = photograph(), {}
    peaks = {n: peak_mib(spec, n.split()[0], data, feeds[0], 1) for n, data in built.items()}
    with ExitStack() as stack:
        running = {}
        for name, engine in built.items():
            backend = backends.find(name.split()[0])(spec, engine, threads=1)
            running[name] = stack.enter_context(Session(backend, fit))
            maps[name] = [backend.infer(feed) for feed in feeds]
        for _ in range(asked.rounds):
            for name, session in running.items():
                infer = session.backend.infer
                taken[name] += timed(lambda i, infer=infer: infer(feeds[i % len(feeds)]))
                frames[name] += timed(lambda _, session=session: session(photo))
    exact = maps["onnxruntime fp32"]
    base = float(np.median(taken["onnxruntime fp32, without"]))
    columns = ["form", "CPU ms", "p10", "ratio", "frame", "MB", "peak MiB", *spec.task_names]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, times in taken.items():
        found = worst_differences(spec, exact, maps[name]).by_task
        cells = [f"{np.median(times):.1f}", f"{np.percentile(times, 10):.1f}"]
        cells += [f"{base / np.median(times):.2f}", f"{np.median(frames[name]):.1f}"]
        cells += [f"{len(built[name]) / 1e6:.1f}", f"{peaks[name]:.0f}"]
        cells += [f"{100 * found[task]:.2f} %" for task in spec.task_names]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
