"""The page of a budget search: which layer hurts which task, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.cli._files import write_file
from degmix_edge.report import figures
from degmix_edge.report.page import Figure, Panel, Report, Row, Table, render
from degmix_edge.tasks import TaskSpec, colour

if TYPE_CHECKING:
    from degmix_calibration.budget import Limit
    from degmix_calibration.search import Choice
    from degmix_calibration.sensitivity import Layer, Sensitivity
    from degmix_calibration.trial import Trials

    from degmix_edge.cli._budget import Request

HISTOGRAMS = 12
ROWS = 80
"""Layers on the page, the most damaging first."""
Findings = tuple["Sequence[Layer]", "Sensitivity", "Choice"]


def write(
    asked: Request,
    trials: Trials,
    limits: Mapping[str, Limit],
    allowed: Mapping[str, float],
    findings: Findings,
    share: float,
) -> None:
    """Write the report, one self-contained HTML file."""
    found, measured, choice = findings
    worst_first = sorted(found, key=lambda x: -_worst(measured[x.name], allowed))
    kept = {layer.name for layer in choice.kept}
    spec = trials.spec
    verdict = (
        f"{len(kept)} of {len(found)} layers in INT8, {share:.1f} % of the MACs; {choice.worst} "
        f"uses {100 * choice.use[choice.worst]:.0f} % of its budget and decides"
    )
    rows = [_row(x, measured[x.name], allowed, kept) for x in worst_first[:ROWS]]
    finite = [v for _, values, _ in rows for v in values if np.isfinite(v)]
    limit = max(1.0, float(np.percentile(finite or [1.0], 95)))
    labelled = any(d.loss is not None for d in choice.damage.values())
    report = Report(
        title=f"INT8 inside a budget: {spec.model}, {spec.height}x{spec.width}",
        verdict=verdict,
        passed=bool(kept) and choice.fits,
        facts=(
            ("Budget", ", ".join(limit.text for limit in limits.values())),
            ("Measured on", f"{asked.examples}, {len(trials.examples)} images"),
            ("Target", asked.device),
            ("Saving", f"{choice.saving_ms:.3g} ms of the layers in INT8"),
            ("Recipes tried", f"{len(found)} layers alone, then {choice.trials} whole recipes"),
            ("Weights", f"{spec.source.name} {spec.source.sha256[:12]}"),
        ),
        tables=(_tasks(trials, limits, choice, labelled),),
        tasks=spec.tasks,
        panels=_worst_images(trials, choice),
        commands=(),
        figures=(
            Figure(
                "What each layer costs each task alone",
                "How far the maps move from the float network's when only this layer is INT8, in "
                "percent of the task's budget. Maps can move without becoming worse: this orders "
                "the layers, and whole recipes against the budget decide. Most damaging first.",
                figures.heat_map([*spec.task_names, ""], rows, limit),
            ),
            Figure(
                "Inputs of the most damaging layers",
                "Magnitudes, counts on a log scale; what lies right of the line is clipped.",
                "".join(_histograms(trials, worst_first[:HISTOGRAMS])),
            ),
        ),
    )
    write_file(asked.report, render(report).encode(), force=True)


def _worst(damage: Mapping[str, Any], allowed: Mapping[str, float]) -> float:
    return float(max(damage[t].distance / (allowed[t] or 1e-12) for t in allowed))


def _row(
    layer: Layer, damage: Mapping[str, Any], allowed: Mapping[str, float], kept: set[str]
) -> tuple[str, list[float], str]:
    values = [damage[t].distance / (allowed[t] or 1e-12) for t in allowed]
    state = "INT8" if layer.name in kept else "float"
    return layer.name, values, f"{state}, saves {layer.saving_ms:.3g} ms"


def _tasks(trials: Trials, limits: Mapping[str, Limit], choice: Choice, labelled: bool) -> Table:
    rows = []
    for task in trials.spec.tasks:
        damage, limit = choice.damage[task.name], limits[task.name]
        rows.append(
            (
                task.name,
                f"{task.metric} [{limit.metric.unit}]",
                f"{trials.value(task):.3f}",
                "-" if damage.loss is None else f"{damage.loss:+.3f}",
                f"{damage.distance:.3f}",
                limit.text,
                f"{100 * choice.use[task.name]:.0f} %",
            )
        )
    note = "Against labels." if labelled else "Without labels: the float network's maps are them."
    columns = ("task", "metric", "float", "worse by", "from float maps", "budget", "used")
    bad = tuple(i for i, t in enumerate(trials.spec.tasks) if choice.use[t.name] > 1)
    return Table("Each task", columns, tuple(rows), note, bad)


def _histograms(trials: Trials, layers: Sequence[Layer]) -> list[str]:
    """Of each layer's first input, over the examples."""
    from degmix_calibration.collect import histograms

    from degmix_edge.passes._base import to_graph

    nodes = {node.name: node for node in to_graph(trials.model).nodes}
    inputs = [nodes[layer.nodes[0]].inputs[0].name for layer in layers]
    names = [n for n in dict.fromkeys(inputs) if n in trials.ranges.tensors]
    found = histograms(trials.model, names, (e.pixels for e in trials.examples))
    return [
        figures.histogram(
            layer.name,
            found[name].counts,
            found[name].limit,
            trials.ranges.tensors[name].amax,
        )
        for layer, name in zip(layers, inputs, strict=True)
        if name in found
    ]


def _worst_images(trials: Trials, choice: Choice) -> tuple[Panel, ...]:
    """For each task the example whose map moved most: image, float, INT8, error."""
    maps = trials.maps(choice.recipe)
    panels = []
    for task in trials.spec.tasks:
        name = task.name
        errors = [
            _error(m[name], f[name], task) for m, f in zip(maps, trials.reference, strict=True)
        ]
        worst = int(np.argmax([float(error.mean()) for error in errors]))
        example, floats = trials.examples[worst], trials.reference[worst][name]
        limit = float(np.percentile(floats, 98)) if task.decode == "clamp" else None
        rows = [Row("float", {name: colour(floats, task, limit)})]
        rows.append(Row("INT8", {name: colour(maps[worst][name], task, limit)}))
        rows.append(Row("error", {name: _red(errors[worst])}))
        if name in example.labels:
            dtype = np.uint8 if task.decode == "argmax" else np.float32
            label = example.labels[name].astype(dtype, copy=False)
            rows.insert(0, Row("label", {name: colour(label, task, limit)}))
        note = f"worst image for {name}"
        picture = example.placement.crop(example.pixels)
        panels.append(Panel(f"{name}: {example.name}", note, picture, tuple(rows)))
    return tuple(panels)


def _error(got: np.ndarray, want: np.ndarray, task: TaskSpec) -> np.ndarray:
    """`(H, W)` in [0, 1]: another class, or the difference as a share of the map's extent."""
    if task.decode == "argmax":
        return np.asarray(got != want, np.float32)
    gap = np.abs(got.astype(np.float32) - want)
    gap = gap.mean(-1) if gap.ndim == 3 else gap
    return np.asarray(np.clip(gap / (float(np.ptp(want)) or 1.0), 0, 1))


def _red(error: np.ndarray) -> np.ndarray:
    """Black is none, white a tenth of the extent or more."""
    strength = np.clip(error * 10, 0, 1)
    picture = np.stack([strength, strength**2, strength**4], axis=-1)
    return np.asarray(255 * picture, np.uint8)
