"""The page of a budget search, which shows how much each layer costs each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from degmix_calibration.collect import histograms
from degmix_calibration.histogram import Histogram
from degmix_calibration.search import Choice, Findings, worst_share
from degmix_calibration.sensitivity import Layer
from degmix_calibration.trial import Trials
from degmix_edge.graph.model import to_graph
from degmix_edge.report.charts import Axis, Group, Plot, Point, Series
from degmix_edge.report.gallery import Gallery
from degmix_edge.report.page import Report, Table, render
from degmix_edge.report.views import Panel, View, label_map, view
from degmix_edge.tasks import TaskSpec

HISTOGRAMS = 12
COLUMNS = ("task", "metric", "float", "worse by", "from float maps", "budget", "used")
ROWS = 80
"""Largest number of layers on the page; the most damaging ones come first."""
BARS = 64
"""Bars of a histogram."""
FLOOR_PERCENT = 0.01
"""Smaller damages are drawn here."""


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
    precision = "INT8" if choice.recipe.precision == "int8" else "bfloat16"
    worst_first = sorted(
        findings.layers, key=lambda x: -worst_share(findings.measured[x.name], allowed)
    )
    return render(
        Report(
            title=f"{precision} within a budget: {spec.model}, {spec.height}x{spec.width}",
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
            gallery=Gallery(_worst_images(trials, choice)),
            charts=(
                _saving_chart(findings),
                *_histograms(trials, worst_first[:HISTOGRAMS]),
            ),
            tables=(_tasks(findings), _layer_table(findings, worst_first[:ROWS])),
            hint="For each task the image that changed most. The left map is the float network's.",
        )
    )


def _saving_chart(findings: Findings) -> Group:
    """Every layer: what it alone costs the most affected task against the time that it saves."""
    allowed = findings.allowed
    chosen = {layer.name for layer in (*findings.choice.int8, *findings.choice.bf16)}
    points: dict[bool, list[Point]] = {True: [], False: []}
    for layer in findings.layers:
        damage = findings.measured[layer.name]
        task = max(allowed, key=lambda t: _moved(damage, allowed, t))
        share = 100 * _moved(damage, allowed, task)
        label = f"{layer.name}: {share:.3g} % of {task}'s budget, saves {layer.saving_ms:.3g} ms"
        points[layer.name in chosen].append(Point(layer.saving_ms, share, label))
    device = findings.search.device
    plot = Plot(
        "Each layer alone",
        Axis(f"time that INT8 saves on {device} [ms]"),
        Axis("its maps move by [% of the budget]", log=True),
        (
            Series("stays float", tuple(points[False]), tone=1),
            Series("lower precision in the chosen recipe", tuple(points[True]), tone=0),
        ),
        marks=((100.0, "the whole budget"),),
        floor=FLOOR_PERCENT,
        note=f"Smaller damages than {FLOOR_PERCENT:g} % are drawn at the bottom.",
    )
    note = "Layers to the right and at the bottom are the best choice for INT8."
    return Group("Damage against saving", note, (plot,))


def _layer_table(findings: Findings, layers: Sequence[Layer]) -> Table:
    """What each layer alone costs each task, and why it is INT8 or float."""
    allowed, tasks = findings.allowed, findings.search.trials.spec.task_names
    chosen = {layer.name for layer in (*findings.choice.int8, *findings.choice.bf16)}
    rows, shades = [], []
    for layer in layers:
        damage = findings.measured[layer.name]
        shares = [_moved(damage, allowed, task) for task in tasks]
        cells = [_cell(share) for share in shares]
        state = layer.precision.upper() if layer.name in chosen else "float"
        why = why_above(findings, layer)
        rows.append((layer.name, *cells, state, f"{layer.saving_ms:.3g}", why))
        shades.append((None, *(min(share, 1.0) for share in shares), None, None, None))
    columns = ("layer", *(f"{task} [%]" for task in tasks), "chosen", "saves [ms]", "remark")
    return Table(
        "What each layer costs each task alone",
        columns,
        tuple(rows),
        "How far a task's maps move from the float network's when only this layer is INT8, in "
        "percent of the task's budget. This orders the layers. The budget itself limits how much "
        "worse the chosen recipe is against the labels, which the table above has as used. "
        "The most damaging layers come first.",
        shades=tuple(shades),
    )


def why_above(findings: Findings, layer: Layer) -> str:
    """Say why a layer moves a task's maps by more than its whole budget; else an empty text."""
    allowed, choice = findings.allowed, findings.choice
    damage = findings.measured[layer.name]
    above = [task for task in allowed if _moved(damage, allowed, task) > 1]
    if not above:
        return ""
    names = ", ".join(above)
    if layer not in choice.kept:
        return f"stays float because of {names}, so nothing of the budget is used for it"
    used = ", ".join(f"{task} {100 * choice.use[task]:.0f} %" for task in above)
    if damage[above[0]].loss is None:
        return f"moves {names} alone; the whole recipe was measured and uses {used}"
    return f"moves {names} without making it as much worse against the labels: used is {used}"


def _cell(share: float) -> str:
    return f"{100 * max(share, 0.0):.0f}" if np.isfinite(share) else "broken"


def _moved(damage: Mapping[str, Any], allowed: Mapping[str, float], task: str) -> float:
    """How far a task's maps move, as a share of its budget."""
    return float(damage[task].distance / (allowed[task] or 1e-12))


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


def _histograms(trials: Trials, layers: Sequence[Layer]) -> Iterator[Group]:
    """Draw the histogram of each layer's first input over the examples, if INT8 clips it."""
    if trials.ranges is None:
        return
    nodes = {node.name: node for node in to_graph(trials.model).nodes}
    inputs = [nodes[layer.nodes[0]].inputs[0].name for layer in layers]
    names = [n for n in dict.fromkeys(inputs) if n in trials.ranges.tensors]
    by_name = histograms(trials.model, names, (e.feed for e in trials.examples))
    charts = tuple(
        _histogram(layer.name, by_name[name], trials.ranges.tensors[name].amax)
        for layer, name in zip(layers, inputs, strict=True)
        if name in by_name
    )
    note = "Values to the right of the dashed line are clipped."
    yield Group("Inputs of the most damaging layers", note, charts)


def _histogram(title: str, histogram: Histogram, clip: float) -> Plot:
    """The magnitudes of one tensor; `clip` is the magnitude that maps to 127."""
    counts, limit = histogram.counts, histogram.limit
    starts = np.arange(0, len(counts), max(1, len(counts) // BARS))
    sums = np.add.reduceat(counts, starts)
    edges = np.append(starts, len(counts)) * (limit / len(counts))
    points = tuple(
        Point(float(x), float(np.log10(1 + count)))
        for left, right, count in zip(edges, edges[1:], sums, strict=False)
        for x in (left, right)
    )
    first = min(round(len(counts) * clip / limit), len(counts)) if limit else len(counts)
    share = 100 * float(counts[first:].sum()) / max(float(counts.sum()), 1)
    most = int(np.log10(1 + sums.max()))
    powers = range(0, most + 1, 1 if most < 5 else 2)
    return Plot(
        title,
        Axis("magnitude of the input"),
        Axis("count", ticks=tuple((float(p), f"{10.0**p:g}") for p in powers)),
        (Series("", points, "area"),),
        x_marks=((clip, f"clip {clip:.3g}"),),
        note=f"largest {limit:.3g}, clipped at {clip:.3g}: {share:.3g} % of the values",
    )


def _worst_images(trials: Trials, choice: Choice) -> list[Panel]:
    """Show every task on the images that changed most for one of them."""
    maps = trials.maps(choice.recipe)
    tasks = [task for task in trials.spec.tasks if not task.is_raw]
    drawn = [_views(trials, tasks, maps, index) for index in range(len(maps))]
    worst: dict[int, list[str]] = {}
    for place, task in enumerate(tasks):
        shares = [
            float(np.nan_to_num(gap.share)) if (gap := views[place].difference) else 0.0
            for views in drawn
        ]
        worst.setdefault(int(np.argmax(shares)), []).append(task.name)
    return [
        Panel(
            trials.examples[index].name,
            f"changed most for {', '.join(names)}",
            trials.examples[index].placement.crop(trials.examples[index].pixels),
            drawn[index],
        )
        for index, names in worst.items()
    ]


def _views(
    trials: Trials, tasks: Sequence[TaskSpec], maps: Sequence[Mapping[str, Any]], index: int
) -> tuple[View, ...]:
    """The float network's maps of one example, the recipe's, and the labels."""
    views = []
    for task in tasks:
        floats = trials.reference[index][task.name]
        layers = {"float": floats, "INT8": maps[index][task.name]}
        label = trials.examples[index].labels.get(task.name)
        if label is not None:
            layers["labels"] = label_map(label, task, floats.shape[:2])
        views.append(view(task, layers))
    return tuple(views)
