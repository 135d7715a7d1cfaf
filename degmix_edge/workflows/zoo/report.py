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
    elsewhere_tables,
    gain_text,
    published_tables,
    seeds_tables,
    value_text,
)

if TYPE_CHECKING:
    from degmix_training.zoo import ZooConfig

    from degmix_edge.workflows.zoo.result import ZooResult, ZooRow


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
            ("delta_m", _meaning(result)),
            *((f"Training of {name}", text) for name, text in _own_training(zoo).items()),
            ("Seeds", ", ".join(map(str, zoo.all_seeds))),
            ("Machine", f"{where['cpu']}, {where['cores']} cores, {where['system']}"),
            ("Measured", f"{where['date']}, Python {where['python']}"),
            ("Versions", ", ".join(f"{k} {v}" for k, v in result.versions.items())),
            *((f"Remark {i + 1}", remark) for i, remark in enumerate(remarks)),
        ),
        tables=(
            cost_table(result),
            accuracy_table(result),
            *elsewhere_tables(result),
            *seeds_tables(result),
            *published_tables(result),
        ),
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


def _deviations(result: ZooResult) -> dict[str, float]:
    """The standard deviation of delta_m in INT8; 0 where there is none."""
    return {row.name: row.deviation("int8") or 0.0 for row in result.networks}


def _own_training(zoo: ZooConfig) -> dict[str, str]:
    """What is different in the trainings of networks that have settings of their own."""
    texts = {
        name: ", ".join(
            [f"{task} times {weight:g}" for task, weight in entry.loss_weights.items()]
            + ([f"balanced by {entry.balance}"] if entry.balance else [])
            + ([f"{entry.steps} steps"] if entry.steps else [])
        )
        for name, entry in zoo.entries.items()
    }
    return {name: text for name, text in texts.items() if text}


def _meaning(result: ZooResult) -> str:
    """What delta_m compares with what."""
    zoo, own = (
        result.zoo,
        [n for n in result.zoo.entries if result.zoo.backbone_of(n) != result.zoo.backbone],
    )
    text = (
        "mean over tasks of the signed relative difference of the metric, in percent; higher is "
        "better (Maninis et al. 2019; Vandenhende et al. 2021, eq. 4). FP32 and INT8 are both "
        f"compared with FP32 {result.compared_with}: model {zoo.baseline.model}, "
        f"{zoo.train.steps} steps"
    )
    text += " for each task" if zoo.reference == "single" else ""
    if own:
        text += f". Of {', '.join(own)}, it holds the difference of backbones too"
    return text


def _zero(result: ZooResult) -> str:
    return "single-task" if result.zoo.reference == "single" else "multi-task baseline"


def _cost_charts(result: ZooResult) -> Group:
    """delta_m against each cost; the number in a point is the network's place in the key."""
    gains, deviations = _gains(result), _deviations(result)
    charts = []
    for label, costs in _costs(result).items():
        points = [
            Point(
                costs[name],
                gain,
                f"{name}: {gain_text(gain, deviations[name] or None)} % at {costs[name]:.4g}",
                str(place + 1),
                deviations[name],
            )
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
    ) + _bars_note(result)
    return Group("What it reaches against what it costs", note, tuple(charts), tuple(gains))


def _accuracy_charts(result: ZooResult) -> list[Group]:
    """The metric of every network's INT8 engine, a chart for each task."""
    from degmix_edge import metrics, tasks

    charts = []
    for task in result.networks[0].values:
        metric = metrics.find(tasks.find(task).metric)
        bars = tuple(
            _bar(row, task)
            for row in result.networks
            if math.isfinite(row.int8.get(task, math.nan))
        )
        baseline = result.baselines.get(task)
        marks = ((baseline.value, f"{baseline.of} {baseline.value:.3f}"),) if baseline else ()
        arrow = "↑ higher is better" if metric.higher_is_better else "↓ lower is better"
        charts.append(Bars(f"{task}: {metric.name} [{metric.unit}] {arrow}", bars, marks))
    note = "The INT8 engine on the validation samples." + _bars_note(result)
    return [Group("Accuracy", note, tuple(charts))]


def _bar(row: ZooRow, task: str) -> Bar:
    value, deviation = row.int8[task], row.std.get("int8", {}).get(task)
    error = deviation if deviation is not None and math.isfinite(deviation) else 0.0
    return Bar(row.name, (("", value),), value_text(value, deviation), error=error)


def _bars_note(result: ZooResult) -> str:
    several = len(result.zoo.all_seeds) > 1
    return " Error bars are one standard deviation over seeds." if several else ""


def _chart(result: ZooResult) -> bytes:
    """The chart as PNG."""
    from degmix_edge.report import scatter

    train, zero = result.zoo.train, _zero(result)
    axes = [scatter.Axis(label, values) for label, values in _costs(result).items()]
    title = f"{train.data.name}, {train.height}x{train.width}, {train.steps} steps"
    deviations = {name: value for name, value in _deviations(result).items() if value}
    reached = scatter.Axis("delta_m, INT8 [%]", _gains(result), deviations)
    return scatter.scatter(title, reached, axes, zero=zero)
