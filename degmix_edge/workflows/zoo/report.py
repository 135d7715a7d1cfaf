"""The files of a zoo: page, table, chart, numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from degmix_edge.files import write_file
from degmix_edge.report.page import Figure, Report, render
from degmix_edge.report.values import json_text
from degmix_edge.workflows.zoo.tables import (
    accuracy_table,
    cost_table,
    csv_text,
    published_tables,
)

if TYPE_CHECKING:
    from degmix_edge.workflows.zoo.result import ZooResult


def write_zoo(result: ZooResult) -> None:
    """Write zoo.html, zoo.csv, zoo.png and zoo.json into the zoo's folder.

    Raises:
        OutputError: A file cannot be written.
    """
    png, svg = _chart(result)
    write_file(result.chart, png, force=True)
    write_file(result.table, csv_text(result).encode(), force=True)
    write_file(result.numbers, json_text(result.values()).encode(), force=True)
    write_file(result.page, render(_page(result, svg)).encode(), force=True)


def _page(result: ZooResult, svg: str) -> Report:
    zoo, out, where = result.zoo, result.out, result.machine
    train, remarks = zoo.train, result.remarks
    note = (
        f"delta_m of the INT8 engine against {result.compared_with}. Up and to the left is better."
    )
    return Report(
        title=f"{len(result.networks)} networks on {train.data.name}, {train.height}x{train.width}",
        verdict=result.verdict,
        passed=not remarks,
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
        tasks=(),
        panels=(),
        figures=(Figure("What it reaches against what it costs", note, svg),),
        commands=(("Again", f"degmix-edge zoo {out / 'zoo.yaml'} --out {out}"),),
    )


def _chart(result: ZooResult) -> tuple[bytes, str]:
    """The chart as PNG and as SVG."""
    from degmix_edge.report.scatter import Axis, scatter

    rows, train = result.networks, result.zoo.train
    gains = {row.name: row.delta_m.get("int8", float("nan")) for row in rows}
    axes = [
        Axis("multiply-adds of the INT8 graph [G]", {row.name: row.gmac["int8"] for row in rows}),
        Axis("parameters [M]", {row.name: row.params / 1e6 for row in rows}),
        Axis("INT8 bundle [MB]", {row.name: row.size_bytes["int8"] / 1e6 for row in rows}),
    ]
    for backend in rows[0].latency_ms:
        axes += [
            Axis(f"{backend}, {p} [ms]", {row.name: row.latency_ms[backend][p] for row in rows})
            for p in ("int8", "fp32")
        ]
    title = f"{train.data.name}, {train.height}x{train.width}, {train.steps} steps"
    zero = "single-task" if result.zoo.reference == "single" else "multi-task baseline"
    return scatter(title, Axis("delta_m, INT8 [%]", gains), axes, zero=zero)
