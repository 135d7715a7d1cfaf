"""Process CPU time of every form of a network on this machine's CPU, in alternating rounds.

    python tests/campaigns/cpu_forms.py degmix_tiny --rounds 12
    python tests/campaigns/cpu_forms.py best.safetensors --budget 1% --rounds 3
    python tests/campaigns/cpu_forms.py nyud_demtg --random --size 448x672 --peers --calls 2

A machine that others share disturbs wall time, and CPU time of one thread hardly. Each row is one
backend and precision with our passes, or without those for heads and grids and without our
libraries (`make cpu-ops`). A call takes bytes and gives maps. A frame is a whole call of a session
on a photograph of 640x480: resizing, the network, and maps at the photograph's size. Peak memory is
that of a process of its own. The last columns are each task's difference from the FP32 maps of ONNX
Runtime over photographs.

With `--peers`, the same network is also run as its users would without this project: PyTorch's
export in ONNX Runtime and in OpenVINO, and NNCF's INT8 of that export and of our FP32 graph. These
take normalised floats, and the plain exports give logits: they do a little less. NNCF is not in the
lock file: `pip install nncf`. With `--random`, the network is a preset with random weights, whose
differences say nothing of a trained network. With `--labels synthetic:64`, a second table has what
each form loses of each task's metric.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
from degmix_calibration.trial import Trials
from degmix_training.checkpoint import Checkpoint
from degmix_training.config import TrainConfig, preset
from degmix_training.export import export_checkpoint
from degmix_training.untrained import untrained
from peak_memory import peak_mib
from peers import peer_calls
from PIL import Image

from degmix_edge import backends, config, pixel_library
from degmix_edge.backends import _cpu_ops
from degmix_edge.bundle.golden import worst_differences
from degmix_edge.passes import lower_deform_to_gridsample, resize_to_matmul
from degmix_edge.passes.forms import lower_for_openvino
from degmix_edge.runtime import Session
from degmix_edge.workflows.budget import _examples as examples_of
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.models import parse_size, specs
from degmix_edge.workflows.networks import read_checkpoint
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.sources import images


def network(name: str, *, is_random: bool, size: tuple[int, int] | None) -> Checkpoint:
    """Return a trained network, or a preset with random weights and perhaps another size."""
    if not is_random:
        return read_checkpoint(name)
    settings = config.load(TrainConfig, preset(name), {})
    chosen = specs(settings.tasks, settings.data.name)[1]
    size = size or (settings.height, settings.width)
    return untrained(settings.model, settings.network, chosen, size)


def engines(
    loaded: Checkpoint, budget: str | None, calibration: str, *, without: bool
) -> tuple[dict[str, bytes], Build, list]:
    """Return the engines by name, the build behind the last one, and photographs as feeds.

    Without a budget, which would choose for itself, one form has INT8 and bfloat16 everywhere else.
    """
    options = Options(precision="auto", calibration=calibration, budget=budget)
    base = Build(loaded, options, None).run(until="images")
    feeds = [one.feed(base._fit, base.spec) for one in images("photos", base._fit)]
    built = {}
    for backend in map(backends.find, backends.CPU):
        for precision in backend.precisions():
            made = base._fork(precision=precision, backend=backend.name)
            if made._asked is not None:
                made._asked = replace(made._asked, backend=backend.name)
            name, parts = f"{backend.name} {precision}", product(made)
            built[name] = backend.build(*parts)[backend.engine_file]
            if without:
                with plain():
                    built[f"{name}, without"] = backend.build(*parts)[backend.engine_file]
            if precision == "int8" and "bf16" in backend.precisions() and budget is None:
                mixed = base._fork(precision=precision, backend=backend.name).run(until="calibrate")
                mixed.recipe = mixed._with_bf16()
                built[f"{name}, rest bf16"] = backend.build(*product(mixed))[backend.engine_file]
            print(f"built {name}", flush=True)
    return built, made, feeds


def product(made: Build) -> tuple:
    """Return what a backend builds from: the model, its recipe, its ranges."""
    found = made.run(until="quantize").product
    return found.model, found.recipe, found.ranges


@contextmanager
def plain() -> Iterator[None]:
    """Leave out the passes of heads and grids, and our libraries for operators and for pixels."""
    lowering = lower_deform_to_gridsample._Lowering
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize_to_matmul, "MOST", 0)
        patch.setattr(lowering, "_fold", lambda self, steps: False)
        for variable in (_cpu_ops.VARIABLE, pixel_library.VARIABLE):
            patch.setenv(variable, "none")
        yield


def losses(built: dict[str, bytes], made: Build, labelled: str) -> None:
    """Print what each form loses of each task's metric, against labels."""
    trials = Trials(made._deployed, made.spec, None, examples_of(labelled, made.spec), threads=1)
    tasks = made.spec.tasks
    print(f"| form | {' | '.join(made.spec.task_names)} |\n|{'---|' * (1 + len(tasks))}")
    for name, engine in built.items():
        own = replace(trials, lowered=True, backend=name.split()[0])
        damage = own.damage(own._maps(engine))
        cells = [f"{100 * damage[t.name].loss / abs(trials.value(t)):+.2f} %" for t in tasks]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def photograph() -> np.ndarray:
    """Return a photograph as a camera of 640x480 gives it."""
    import skimage.data

    return np.asarray(Image.fromarray(skimage.data.coffee()).resize((640, 480)))


def timed(call: Callable[[int], object], calls: int) -> list[float]:
    """Return the CPU milliseconds of some calls, behind one that does not count."""
    call(0)
    taken = []
    for index in range(calls):
        start = time.process_time()
        call(index)
        taken.append(1e3 * (time.process_time() - start))
    return taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a checkpoint, or a preset with --random")
    parser.add_argument("--random", action="store_true", help="random weights")
    parser.add_argument("--size", type=parse_size, help="HEIGHTxWIDTH, with --random")
    parser.add_argument("--peers", action="store_true", help="also run what users have without us")
    parser.add_argument("--no-without", action="store_true", help="leave out forms without passes")
    parser.add_argument("--labels", help="examples that the budget would be measured on")
    parser.add_argument("--budget")
    parser.add_argument("--calibration", default="synthetic:32")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--calls", type=int, default=4, help="timed calls of a form in a round")
    asked = parser.parse_args()
    loaded = network(asked.network, is_random=asked.random, size=asked.size)
    without = not asked.no_without
    built, made, feeds = engines(loaded, asked.budget, asked.calibration, without=without)
    if asked.labels:
        losses(built, made, asked.labels)
    spec, fit, peers = made.spec, made._fit, {}
    if asked.peers:
        export = export_checkpoint(loaded, folds=()).SerializeToString()
        recipe = made.product.recipe
        with plain():
            lowered, _ = lower_for_openvino(export, recipe)
        ours, _ = lower_for_openvino(made.product.model, recipe)
        peers = peer_calls(export, lowered, ours, spec, feeds)
    taken: dict[str, list[float]] = {name: [] for name in (*built, *peers)}
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
                taken[name] += timed(lambda i, f=infer: f(feeds[i % len(feeds)]), asked.calls)
                with plain() if name.endswith("without") else nullcontext():
                    frames[name] += timed(lambda _, session=session: session(photo), asked.calls)
            for name, call in peers.items():
                taken[name] += timed(lambda i, f=call: f(feeds[i % len(feeds)]), asked.calls)
    exact = maps["onnxruntime fp32"]
    first = "onnxruntime fp32, without" if without else "onnxruntime fp32"
    base = float(np.median(taken[first]))
    columns = ["form", "CPU ms", "p10", "ratio", "frame", "MB", "peak MiB", *spec.task_names]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, times in taken.items():
        cells = [f"{np.median(times):.1f}", f"{np.percentile(times, 10):.1f}"]
        cells.append(f"{base / np.median(times):.2f}")
        if name in built:
            found = worst_differences(spec, exact, maps[name]).by_task
            cells += [f"{np.median(frames[name]):.1f}", f"{len(built[name]) / 1e6:.1f}"]
            cells += [f"{peaks[name]:.0f}", *(f"{100 * found[t]:.2f} %" for t in spec.task_names)]
        else:
            cells += [""] * (3 + len(spec.task_names))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
