"""How cost grows on this machine's CPU: with tasks, pixels, images a call, and threads.

    python tests/campaigns/growth.py degmix_tiny --out build/growth
    python tests/campaigns/growth.py nyud_demtg --out build/growth --rounds 2
    python tests/campaigns/growth.py nyud_demtg --out build/growth --only-build

The network is a preset with random weights. From all six tasks at the preset's size and one image a
call, one of the three grows at a time, in every form that the CPU backends have. Forms take turns
in each round, and one lives at a time: a pool of spinning threads would take the cores of another.
A time is the median of all rounds' calls, bytes in and maps out. Peak memory is that of a process
of its own. What is measured is kept in OUT/NETWORK.json, from which a second run resumes.

Engines lie in OUT/NETWORK.engines until they are measured. `--only-build` makes all of them and
measures their memory, which other programs do not disturb; times want a machine of their own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from degmix_training.config import TrainConfig, preset
from degmix_training.untrained import untrained
from peak_memory import peak_mib

from degmix_edge import backends, config
from degmix_edge.errors import DegmixWarning
from degmix_edge.files import write_file
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.workflows.bench import machine
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.models import specs
from degmix_edge.workflows.options import Options

TASKS = (1, 2, 3, 4, 5, 6)
SIDES = (1.0, 1.25, 1.5, 2.0)
"""By how much height and width are multiplied; the last one makes four times the pixels."""
BATCHES = (1, 2, 4, 8)
THREADS = (1, 2)
WARM_S, TIMED_S, MOST = 0.2, 0.6, 20
"""Seconds of a form's calls in a round that do not count and that do, and the most calls of each.
There is always one of each."""


@dataclass(frozen=True)
class Shape:
    """One network to measure."""

    tasks: int = TASKS[-1]
    side: float = SIDES[0]
    batch: int = BATCHES[0]

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.tasks} tasks, side x{self.side:g}, batch {self.batch}"


AXES = {
    "tasks": [Shape(tasks=n) for n in TASKS],
    "pixels": [Shape(side=s) for s in SIDES],
    "batch": [Shape(batch=n) for n in BATCHES],
}
"""What grows, with the shapes that are measured for it."""


def of_axis(axis: str, shape: Shape) -> float:
    """Return where a shape stands on an axis."""
    return {"tasks": shape.tasks, "pixels": shape.side**2, "batch": shape.batch}[axis]


@dataclass(frozen=True)
class Built:
    """Every form of one network, in a folder.

    Attributes:
        folder: It holds the engines, by backend and precision.
        spec: The network.
        peaks: Peak memory in MiB by form, which is backend and precision.
    """

    folder: Path
    spec: NetworkSpec
    peaks: Mapping[str, float]

    @property
    def feed(self) -> dict[str, np.ndarray]:
        """One call's input: noise, which takes as long as anything else."""
        size = (self.spec.batch, self.spec.height, self.spec.width, 3)
        return {IMAGE: np.random.default_rng(0).integers(0, 256, size, np.uint8)}

    def engine(self, form: str) -> bytes:
        """Read an engine."""
        return (self.folder / form).read_bytes()


def built(name: str, shape: Shape, folder: Path) -> Built:
    """Return what is in the folder, or build it and measure its memory."""
    about = folder / "about.json"
    if not about.exists():
        folder.mkdir(parents=True, exist_ok=True)
        spec = build(name, shape, folder)
        forms = sorted(path.name for path in folder.iterdir() if path.suffix != ".json")
        fresh, peaks = Built(folder, spec, {}), {}
        for form in forms:  # a second thread adds next to nothing
            parts = (spec, form.split()[0], fresh.engine(form), fresh.feed, THREADS[-1])
            peaks[form] = round(peak_mib(*parts), 1)
        text = json.dumps({"spec": spec.model_dump(mode="json"), "peaks": peaks})
        write_file(about, text.encode(), force=True)
    read = json.loads(about.read_bytes())
    return Built(folder, NetworkSpec.model_validate_json(json.dumps(read["spec"])), read["peaks"])


def build(name: str, shape: Shape, folder: Path) -> NetworkSpec:
    """Write every form of a preset with random weights, and return its spec."""
    settings = config.load(TrainConfig, preset(name), {})
    data, every = specs((), "synthetic")
    chosen = specs([*every][: shape.tasks], data)[1]
    # Whole multiples of 8 pixels, as the smallest of the usual steps of backbones.
    size = tuple(8 * round(shape.side * n / 8) for n in (settings.height, settings.width))
    loaded = untrained(settings.model, settings.network, chosen, size)
    noise = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    options = Options(precision="auto", batch=shape.batch, observer="min_max")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegmixWarning)  # ranges of noise do for times
        base = Build(loaded, options, None, calibration=list(noise)).run(until="images")
        for backend in map(backends.choose, backends.CPU):
            for precision in backend.precisions():
                product = base._fork(precision=precision).run(until="quantize").product
                files = backend.build(product.model, product.recipe, product.ranges)
                (folder / f"{backend.name} {precision}").write_bytes(files[backend.engine_file])
    return base.spec


def calls(running: Any, feed: Mapping[str, np.ndarray], seconds: float) -> list[float]:
    """Return the milliseconds of as many calls as take so long, at least of one."""
    taken: list[float] = []
    while not taken or (sum(taken) < 1e3 * seconds and len(taken) < MOST):
        start = time.perf_counter()
        running.infer(feed)
        taken.append(1e3 * (time.perf_counter() - start))
    return taken


def measured(made: Built, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median milliseconds, the spread of the rounds and the peak memory of each form."""
    taken: dict[str, list[list[float]]] = {form: [] for form in made.peaks}
    feed = made.feed
    for _ in range(rounds):
        for form in made.peaks:
            backend = backends.find(form.split()[0])
            with backend(made.spec, made.engine(form), threads=threads) as running:
                calls(running, feed, WARM_S)
                taken[form].append(calls(running, feed, TIMED_S))
    result = {}
    for form, parts in taken.items():
        medians = [float(np.median(part)) for part in parts]
        result[form] = {
            "ms": round(float(np.median(np.concatenate(parts))), 3),
            "spread": round(max(medians) / min(medians) - 1, 3),
            "peak_mib": made.peaks[form],
            "size_mb": round(len(made.engine(form)) / 1e6, 2),
        }
    return result


def fill(name: str, axes: list[str], rounds: int, path: Path) -> dict[str, Any]:
    """Measure what is not in the file yet, and write it after each cell; no rounds only build."""
    results = json.loads(path.read_text()) if path.exists() else {"network": name, "cells": {}}
    results["machine"] = machine()
    for shape in dict.fromkeys(shape for axis in axes for shape in AXES[axis]):
        keys = {threads: f"{shape.key}, threads {threads}" for threads in THREADS}
        missing = [threads for threads, key in keys.items() if key not in results["cells"]]
        if not missing:
            continue
        made = built(name, shape, path.with_suffix(".engines") / shape.key)
        if not rounds:
            print(f"built: {shape.key}", flush=True)
            continue
        for threads in missing:
            forms = measured(made, threads, rounds)
            results["cells"][keys[threads]] = {**asdict(shape), "threads": threads, "forms": forms}
            write_file(path, json.dumps(results, indent=1).encode(), force=True)
            told = ", ".join(f"{form} {row['ms']:.1f} ms" for form, row in forms.items())
            print(f"{keys[threads]}: {told}", flush=True)
        shutil.rmtree(made.folder)
    return results


def points(
    results: Mapping[str, Any], axis: str, threads: int
) -> Iterator[tuple[float, Mapping[str, Mapping[str, float]]]]:
    """Yield where each measured shape stands on an axis, and its forms."""
    for shape in AXES[axis]:
        cell = results["cells"].get(f"{shape.key}, threads {threads}")
        if cell is not None:
            yield of_axis(axis, shape), cell["forms"]


def table(results: Mapping[str, Any]) -> str:
    """Return Markdown: one table for each number of threads, milliseconds and MiB in each cell."""
    lines = []
    for threads in THREADS:
        rows = [(a, x, forms) for a in AXES for x, forms in points(results, a, threads)]
        if not rows:
            continue
        forms = [*rows[0][2]]
        lines += ["", f"{threads} thread{'s' * (threads > 1)}, ms (peak MiB):", ""]
        lines += ["| | | " + " | ".join(forms) + " |", "|" + "---|" * (2 + len(forms))]
        for axis, x, cells in rows:
            values = [f"{cells[f]['ms']:.1f} ({cells[f]['peak_mib']:.0f})" for f in forms]
            lines.append(f"| {axis} | {x:.3g} | {' | '.join(values)} |")
        spread = max(cell["spread"] for *_, cells in rows for cell in cells.values())
        lines += ["", f"Medians of rounds differ by up to {100 * spread:.0f} %."]
    return "\n".join(lines).strip() + "\n"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw milliseconds and peak memory over each axis; dotted lines are of one thread."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 8})
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, len(AXES), figsize=(8.5, 5), layout="constrained")
    titles = ("tasks", "pixels, times the preset's", "images a call")
    for column, (axis, title) in enumerate(zip(AXES, titles, strict=True)):
        for threads, style in zip(THREADS, (":", "-"), strict=True):
            found = [*points(results, axis, threads)]
            for color, form in enumerate(found[0][1] if found else ()):
                x = [value for value, _ in found]
                for row, name in enumerate(("ms", "peak_mib")):
                    y = [forms[form][name] for _, forms in found]
                    label = form if style == "-" else None
                    look = {"color": f"C{color}", "linestyle": style, "label": label}
                    grid[row][column].plot(x, y, linewidth=1, **look)
                    grid[row][column].set_xticks(x, [f"{value:.3g}" for value in x])
        grid[1][column].set_xlabel(title)
        for row in range(2):
            grid[row][column].set_ylim(bottom=0)
    grid[0][0].set_ylabel("ms a call")
    grid[1][0].set_ylabel("peak memory, MiB")
    grid[0][0].legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure, and write the results, the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="the name of a preset")
    parser.add_argument("--out", type=Path, default=Path("build/growth"))
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-build", action="store_true", help="measure memory, but no times")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    stem = asked.out / asked.network
    rounds = 0 if asked.only_build else asked.rounds
    results = fill(asked.network, asked.axes.split(","), rounds, stem.with_suffix(".json"))
    if asked.only_build:
        return
    text = table(results)
    write_file(stem.with_suffix(".md"), text.encode(), force=True)
    plot(results, stem.with_suffix(".svg"))
    print(text)


if __name__ == "__main__":
    main()
