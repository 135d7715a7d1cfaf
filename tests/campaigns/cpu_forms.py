"""Process CPU time of every form of a network on this machine's CPU, in alternating rounds.

    python tests/campaigns/cpu_forms.py degmix_tiny --rounds 12
    python tests/campaigns/cpu_forms.py best.safetensors --budget 1% --rounds 3

A machine that others share disturbs wall time, and CPU time of one thread hardly. Each row is one
backend and precision with our passes, or without those for heads and grids; the last columns are
the worst task's difference from the FP32 maps of ONNX Runtime over photographs.
"""

from __future__ import annotations

import argparse
import resource
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from degmix_edge import backends
from degmix_edge.bundle.golden import worst_differences
from degmix_edge.passes import lower_deform_to_gridsample, resize_to_matmul
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.sources import images

CALLS = 4
"""Timed calls of a form in a round, behind one that does not count."""


def engines(network: str, budget: str | None, calibration: str) -> tuple:
    """Return the engines by name, the spec, and what a backend takes of each photograph."""
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
    spec = made.spec
    return built, spec, feeds


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("--budget")
    parser.add_argument("--calibration", default="synthetic:32")
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    built, spec, feeds = engines(asked.network, asked.budget, asked.calibration)
    taken: dict[str, list[float]] = {name: [] for name in built}
    maps = {}
    with ExitStack() as stack:
        running = {}
        for name, engine in built.items():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            backend = backends.find(name.split()[0])(spec, engine, threads=1)
            running[name] = stack.enter_context(backend)
            maps[name] = [backend.infer(feed) for feed in feeds]
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(f"{name}: {len(engine) / 1e6:.1f} MB, peak grew by {grown / 1024:.0f} MiB")
        for _ in range(asked.rounds):
            for name, backend in running.items():
                for call in range(CALLS + 1):
                    start = time.process_time()
                    backend.infer(feeds[call % len(feeds)])
                    if call:
                        taken[name].append(1e3 * (time.process_time() - start))
    exact = maps["onnxruntime fp32"]
    base = float(np.median(taken["onnxruntime fp32, without"]))
    print("\n| form | CPU ms | p10 | ratio | " + " | ".join(spec.task_names) + " |")
    print("|" + "---|" * (4 + len(spec.task_names)))
    for name, times in taken.items():
        found = worst_differences(spec, exact, maps[name]).by_task
        cells = [f"{np.median(times):.1f}", f"{np.percentile(times, 10):.1f}"]
        cells += [f"{base / np.median(times):.2f}"]
        cells += [f"{100 * found[task]:.2f} %" for task in spec.task_names]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
