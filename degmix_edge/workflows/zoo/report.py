"""The files of a zoo: page, table, chart, numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from degmix_edge.files import write_file
from degmix_edge.report.charts import Axis, Bar, Bars, Group, Plot, Point, Series
from degmix_edge.report.gallery import Gallery
from degmix_edge.report.page import Report, render
from degmix_edge.report.values import json_text
from degmix_edge.workflows.zoo.tables import (
    accuracy_table,
    cost_table,
    csv_text,
    published_tables,
)

if TYPE_CHECKING:
    from degmix_edge.workflows.zoo.result import ZooResult


def write_zoo(result: ZooResult, gallery: Gallery) -> None:
    """Write zoo.html, zoo.csv, zoo.png and zoo.json into the zoo's folder.

    Args:
        result: The finished zoo.
        gallery: The networks' maps of a few images.

    Raises:
        OutputError: A file cannot be written.
    """
    write_file(result.chart, _chart(result), force=True)
    write_file(result.table, csv_text(result).encode(), force=True)
    write_file(result.numbers, json_text(result.values()).encode(), force=True)
    write_file(result.page, render(_page(result, gallery)).encode(), force=True)


def _page(result: ZooResult, gallery: Gallery) -> Report:
    zoo, out, where = result.zoo, result.out, result.machine
    train, remarks = zoo.train, result.remarks
    return Report(
        title=f"{len(result.networks)} networks on {train.data.name}, {train.height}x{train.width}",
        verdict=result.verdict,
        passed=not remarks,
        gallery=gallery,
        charts=(_cost_charts(result), *_accuracy_charts(result)),
        facts=(
            ("Budget", f"{train.steps} steps of {train.batch_size} images each, one recipe"),
            ("Backbone", f"{zoo.backbone}, except for networks with their own (see the table)"),
            ("delta_m", f"mean gain over {result.compared_with}, percent; higher is better"),
            ("Machine", f"{where['cpu']}, {where['cores']} cores, {where['system']}"),
            ("Measured", f"{where['date']}, Python {where['python']}"),
            ("Versions", ", ".join(f"{k} {v}" for k, v in result.versions.items())),
            *((f"Remark {i + 1}", remark) for i, remark in enumerate(remarks)),
        ),
        tables=(cost_table(result), accuracy_table(result), *published_tables(result)),
        commands=(("Again", f"degmix-edge zoo {out / 'zoo.yaml'} --out {out}"),),
    )


def _costs(result: ZooResult) -> dict[str, dict[str, float]]:
    """What a network costs: by label and network."""
    rows = result.networks
    costs = {
        "multiply-adds of the INT8 graph [G]": {row.name: row.gmac["int8"] for row in rows},
        "parameters [M]": {row.name: row.params / 1e6 for row in rows},
        "INT8 bundle [MB]": {row.name: row.size_bytes["int8"] / 1e6 for row in rows},
    }
    for backend in rows[0].latency_ms:
        for p in ("int8", "fp32"):
            label = f"{backend}, {p} [ms]"
            costs[label] = {row.name: row.latency_ms[backend][p] for row in rows}
    return costs


def _gains(result: ZooResult) -> dict[str, float]:
    return {row.name: row.delta_m.get("int8", float("nan")) for row in result.networks}


def _zero(result: ZooResult) -> str:
    return "single-task" if result.zoo.reference == "single" else "multi-task baseline"


def _cost_charts(result: ZooResult) -> Group:
    """delta_m against each cost; the number in a point is the network's place in the key."""
    gains = _gains(result)
    charts = []
    for label, costs in _costs(result).items():
        points = [
            Point(costs[name], gain, f"{name}: {gain:+.2f} % at {costs[name]:.4g}", str(place + 1))
            for place, (name, gain) in enumerate(gains.items())
        ]
        charts.append(
            Plot(
                f"delta_m against {label.partition(' [')[0]}",
                Axis(label),
                Axis("delta_m, INT8 [%]"),
                (Series("", tuple(reversed(points))),),
                marks=((0.0, _zero(result)),),
            )
        )
    note = (
        f"delta_m of the INT8 engine against {result.compared_with}. Up and to the left is better. "
        "The best network is number 1."
    )
    return Group("What it reaches against what it costs", note, tuple(charts), tuple(gains))


def _accuracy_charts(result: ZooResult) -> list[Group]:
    """The metric of every network's INT8 engine, a chart for each task."""
    from degmix_edge import metrics, tasks

    charts = []
    for task in result.networks[0].values:
        metric = metrics.find(tasks.find(task).metric)
        bars = tuple(
            Bar(row.name, (("", row.int8[task]),), f"{row.int8[task]:.3f}")
            for row in result.networks
            if math.isfinite(row.int8.get(task, math.nan))
        )
        baseline = result.baselines.get(task)
        marks = ((baseline.value, f"{baseline.of} {baseline.value:.3f}"),) if baseline else ()
        arrow = "↑ higher is better" if metric.higher_is_better else "↓ lower is better"
        charts.append(Bars(f"{task}: {metric.name} [{metric.unit}] {arrow}", bars, marks))
    note = "The INT8 engine on the validation samples."
    return [Group("Accuracy", note, tuple(charts))]


def _chart(result: ZooResult) -> bytes:
    """The chart as PNG."""
    from degmix_edge.report import scatter

    train, zero = result.zoo.train, _zero(result)
    axes = [scatter.Axis(label, values) for label, values in _costs(result).items()]
    title = f"{train.data.name}, {train.height}x{train.width}, {train.steps} steps"
    reached = scatter.Axis("delta_m, INT8 [%]", _gains(result))
    return scatter.scatter(title, reached, axes, zero=zero)
