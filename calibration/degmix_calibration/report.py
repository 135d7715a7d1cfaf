"""The page of a budget search, which shows how much each layer costs each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from degmix_calibration.collect import histograms
from degmix_calibration.search import Choice, Findings
from degmix_calibration.sensitivity import Layer
from degmix_calibration.trial import Trials
from degmix_edge.graph.model import to_graph
from degmix_edge.report import figures
from degmix_edge.report.page import Figure, Panel, Report, Row, Table, render
from degmix_edge.tasks import TaskSpec, colour, farthest, look

HISTOGRAMS = 12
COLUMNS = ("task", "metric", "float", "worse by", "from float maps", "budget", "used")
ROWS = 80
"""Largest number of layers on the page; the most damaging ones come first."""


def budget_page(findings: Findings, examples: str) -> str:
    """Return the report of a search as one self-contained HTML page.

    Args:
        findings: The result of the search.
        examples: A description of the images on which it was measured.
    """
    choice, trials, allowed = findings.choice, findings.search.trials, findings.allowed
    spec = trials.spec
    verdict = (
        f"{choice.text(len({layer.module for layer in findings.layers}))}, "
        f"{findings.int8_macs_percent:.1f} % of the MACs; {choice.worst} "
        f"uses {100 * choice.use[choice.worst]:.0f} % of its budget and decides"
    )
    limits = findings.search.limits.values()
    return render(
        Report(
            title=f"INT8 within a budget: {spec.model}, {spec.height}x{spec.width}",
            verdict=verdict,
            passed=bool(choice.kept) and choice.fits,
            facts=(
                ("Budget", ", ".join(limit.text for limit in limits)),
                ("Measured on", f"{examples}, {len(trials.examples)} images"),
                ("Target", findings.search.device),
                ("Saving", f"{choice.saving_ms:.3g} ms of these layers"),
                (
                    "Recipes tried",
                    f"{len(findings.layers)} layers alone, then {choice.trials} whole recipes",
                ),
                ("Weights", f"{spec.source.name} {spec.source.sha256[:12]}"),
            ),
            tables=(_tasks(findings),),
            tasks=spec.tasks,
            panels=_worst_images(trials, choice),
            commands=(),
            figures=_figures(
                findings,
                sorted(findings.layers, key=lambda x: -_worst(findings.measured[x.name], allowed)),
            ),
        )
    )


def _figures(findings: Findings, worst_first: Sequence[Layer]) -> tuple[Figure, ...]:
    int8 = {layer.name for layer in (*findings.choice.int8, *findings.choice.bf16)}
    rows = [_row(x, findings.measured[x.name], findings.allowed, int8) for x in worst_first[:ROWS]]
    finite = [v for _, values, _ in rows for v in values if np.isfinite(v)]
    limit = max(1.0, float(np.percentile(finite or [1.0], 95)))
    trials = findings.search.trials
    return (
        Figure(
            "What each layer costs each task alone",
            "The distance of the maps from the float network's when only this layer is INT8, in "
            "percent of the task's budget. A map can change without becoming worse, so this only "
            "orders the layers; whole recipes decide. The most damaging layers come first.",
            figures.heat_map([*trials.spec.task_names, ""], rows, limit),
        ),
        Figure(
            "Inputs of the most damaging layers",
            "Counts of magnitudes on a log scale. Values to the right of the line are clipped.",
            "".join(_histograms(trials, worst_first[:HISTOGRAMS])),
        ),
    )


def _worst(damage: Mapping[str, Any], allowed: Mapping[str, float]) -> float:
    return float(max(damage[t].distance / (allowed[t] or 1e-12) for t in allowed))


def _row(
    layer: Layer, damage: Mapping[str, Any], allowed: Mapping[str, float], int8: set[str]
) -> tuple[str, list[float], str]:
    values = [damage[t].distance / (allowed[t] or 1e-12) for t in allowed]
    state = layer.precision.upper() if layer.name in int8 else "float"
    return layer.name, values, f"{state}, saves {layer.saving_ms:.3g} ms"


def task_rows(findings: Findings) -> list[tuple[str, ...]]:
    """Return one row per task, with the cells of `COLUMNS`."""
    choice, trials = findings.choice, findings.search.trials
    rows = []
    for task in trials.spec.tasks:
        damage, limit = choice.damage[task.name], findings.search.limits[task.name]
        rows.append(
            (
                task.name,
                f"{task.metric} [{limit.metric.unit or task.unit}]",
                f"{trials.value(task):.3f}",
                "-" if damage.loss is None else f"{damage.loss:+.3f}",
                f"{damage.distance:.3f}",
                limit.text,
                f"{100 * choice.use[task.name]:.0f} %",
            )
        )
    return rows


def _tasks(findings: Findings) -> Table:
    choice = findings.choice
    labelled = any(d.loss is not None for d in choice.damage.values())
    note = (
        "Measured against labels."
        if labelled
        else "There are no labels; the maps of the float network take their place."
    )
    tasks = findings.search.trials.spec.tasks
    bad = tuple(i for i, t in enumerate(tasks) if choice.use[t.name] > 1)
    return Table("Each task", COLUMNS, tuple(task_rows(findings)), note, bad)


def _histograms(trials: Trials, layers: Sequence[Layer]) -> list[str]:
    """Draw the histogram of each layer's first input over the examples."""
    nodes = {node.name: node for node in to_graph(trials.model).nodes}
    inputs = [nodes[layer.nodes[0]].inputs[0].name for layer in layers]
    names = [n for n in dict.fromkeys(inputs) if n in trials.ranges.tensors]
    by_name = histograms(trials.model, names, (e.feed for e in trials.examples))
    return [
        figures.histogram(
            layer.name,
            by_name[name].counts,
            by_name[name].limit,
            trials.ranges.tensors[name].amax,
        )
        for layer, name in zip(layers, inputs, strict=True)
        if name in by_name
    ]


def _worst_images(trials: Trials, choice: Choice) -> tuple[Panel, ...]:
    """Show the image, the maps and the error of the example that changed most, for each task."""
    maps = trials.maps(choice.recipe)
    panels = []
    for task in trials.spec.tasks:
        if task.is_raw:
            continue
        name = task.name
        errors = [
            _error(m[name], f[name], task) for m, f in zip(maps, trials.reference, strict=True)
        ]
        worst = int(np.argmax([float(error.mean()) for error in errors]))
        example, floats = trials.examples[worst], trials.reference[worst][name]
        limit = farthest(floats) if look(task) in ("ramp", "flow") else None
        rows = [Row("float", {name: colour(floats, task, limit)})]
        rows.append(Row("INT8", {name: colour(maps[worst][name], task, limit)}))
        rows.append(Row("error", {name: _red(errors[worst])}))
        if name in example.labels:
            dtype = task.map_spec(1, 1).dtype
            label = example.labels[name].astype(dtype, copy=False)
            rows.insert(0, Row("label", {name: colour(label, task, limit)}))
        note = f"worst image for {name}"
        picture = example.placement.crop(example.pixels)
        panels.append(Panel(f"{name}: {example.name}", note, picture, tuple(rows)))
    return tuple(panels)


def _error(got: np.ndarray, expected: np.ndarray, task: TaskSpec) -> np.ndarray:
    """Return the error of a map as `(H, W)` in [0, 1].

    For classes it is 1 where they differ; for numbers it is the difference as a share of the range
    of the expected map.
    """
    if task.has_labels:
        return np.asarray(got != expected, np.float32)
    gap = np.abs(got.astype(np.float32) - expected)
    gap = gap.mean(-1) if gap.ndim == 3 else gap
    return np.asarray(np.clip(gap / (float(np.ptp(expected)) or 1.0), 0, 1))


def _red(error: np.ndarray) -> np.ndarray:
    """Colour an error map: black is no error, and white is a tenth of the range or more."""
    strength = np.clip(error * 10, 0, 1)
    picture = np.stack([strength, strength**2, strength**4], axis=-1)
    return np.asarray(255 * picture, np.uint8)
