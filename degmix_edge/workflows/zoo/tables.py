"""The rows of a zoo: what each network costs, what it scores, what others publish."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from degmix_edge import metrics, tasks
from degmix_edge.report.page import Table

if TYPE_CHECKING:
    from degmix_edge.workflows.zoo.result import ZooResult, ZooRow

Cells = dict[str, str]
COST_NOTE = (
    "GMAC: of the trained network; folded: after exact folds and passes; INT8 form: mixtures "
    "of experts stay as they are. Milliseconds: median of one engine call, all networks "
    "alternating in one run. Flips: choices of experts that differ from FP32 because their "
    "inputs come from INT8 layers; routers themselves are float and flip none."
)


def cost_table(result: ZooResult) -> Table:
    """A row for each network: parameters, multiply-adds, latency, size, expert flips."""
    return _table("Cost", [_cost_cells(row) for row in result.networks], COST_NOTE)


def accuracy_table(result: ZooResult) -> Table:
    """Two rows for each network, FP32 and INT8, and the row that they are compared with.

    INT8 rows of networks with a remark are marked as bad.
    """
    rows = [_score_cells(row, form) for row in result.networks for form in ("fp32", "int8")]
    baselines = result.baselines
    last = {"network": "compared with", "form": "fp32", "delta_m [%]": "0"}
    last |= {
        _title(t): f"{baselines[t].value:.3f}" if t in baselines else "-"
        for t in result.networks[0].values
    }
    train = result.zoo.train
    split = f"{train.data.val or 'all'} validation samples of {train.data.name}"
    note = f"On {split}. In brackets: INT8 against FP32; minus is worse."
    bad = tuple(2 * i + 1 for i, row in enumerate(result.networks) if row.remarks)
    return _table("Accuracy", [*rows, last], note, bad)


def published_tables(result: ZooResult) -> list[Table]:
    """A table for each data set: what others print about these networks."""
    from degmix_training import published

    models = {row.model for row in result.networks}
    tables = []
    for data in sorted({row.data for row in published.rows()}):
        rows = [row for row in published.rows() if row.data == data and row.model in models]
        if not rows:
            continue
        columns = published.columns(data)
        heads = ("network", "backbone", *(f"{t} {m}" for t, m in columns.items()), "source")
        cells = tuple(
            (
                row.model,
                row.backbone,
                *(f"{row.values[t][1]:g}" if t in row.values else "-" for t in columns),
                row.source,
            )
            for row in rows
        )
        same = "the same data set" if data == result.zoo.train.data.name else "another data set"
        note = f"Printed by others, none measured here; {same}, other budgets and sizes."
        tables.append(Table(f"Published figures, {data}", heads, cells, note))
    return tables


def csv_text(result: ZooResult) -> str:
    """A row for each network, one number a cell; published figures have columns of their own."""
    rows = [_csv_cells(result, row) for row in result.networks]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cost_cells(row: ZooRow) -> Cells:
    cells = {
        "network": row.name,
        "backbone": row.backbone,
        "params M": f"{row.params / 1e6:.2f}",
        "GMAC": f"{row.gmac['trained']:.3f}",
        "folded": f"{row.gmac['fp32']:.3f}",
        "INT8 form": f"{row.gmac['int8']:.3f}",
    }
    for backend, latencies in row.latency_ms.items():
        cells |= {f"{backend} {p} ms": f"{ms:.2f}" for p, ms in latencies.items()}
    cells |= {f"{p} MB": f"{size / 1e6:.2f}" for p, size in row.size_bytes.items()}
    cells["flips"] = f"{100 * row.flips['total']:.1f} %" if row.flips else "-"
    return cells


def _score_cells(row: ZooRow, form: str) -> Cells:
    values = row.values if form == "fp32" else row.int8
    gain = row.delta_m.get(form)
    cells = {"network": row.name, "form": form}
    cells["delta_m [%]"] = "-" if gain is None else f"{gain:+.2f}"
    for task in row.values:
        text = f"{values[task]:.3f}" if task in values else "-"
        if form == "int8" and task in row.drop:
            text += f" ({-100 * row.drop[task]:+.1f} %)"
        cells[_title(task)] = text
    return cells


def _title(task: str) -> str:
    metric = metrics.find(tasks.find(task).metric)
    return f"{task} {metric.name} [{metric.unit}]"


def _table(title: str, rows: list[Cells], note: str, bad: Iterable[int] = ()) -> Table:
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    cells = tuple(tuple(row.get(name, "-") for name in columns) for row in rows)
    return Table(title, columns, cells, note, tuple(bad))


def _csv_cells(result: ZooResult, row: ZooRow) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "network": row.name,
        "model": row.model,
        "backbone": row.backbone,
        "params": row.params,
        "step": row.step,
        **{f"gmac_{form}": value for form, value in row.gmac.items()},
        **{f"delta_m_{p}": value for p, value in row.delta_m.items()},
    }
    for backend, latencies in row.latency_ms.items():
        cells |= {f"latency_ms_{backend}_{p}": value for p, value in latencies.items()}
    cells |= {f"size_bytes_{p}": size for p, size in row.size_bytes.items()}
    cells |= {f"flips_{kind}": row.flips.get(kind, "") for kind in ("router", "total")}
    for task, value in row.values.items():
        cells |= {f"{task}_fp32": value, f"{task}_int8": row.int8.get(task, "")}
        baseline = result.baselines.get(task)
        cells[f"{task}_compared_with"] = "" if baseline is None else baseline.value
    cells |= _published_cells(result.zoo.train.data.name, row.model)
    return {**cells, "remarks": "; ".join(row.remarks)}


def _published_cells(data: str, model: str) -> dict[str, Any]:
    """The first published row of this model and data set, whatever its backbone."""
    from degmix_training import published

    for row in published.rows():
        if (row.data, row.model) == (data, model):
            cells = {f"published_{task}": value for task, (_, value) in row.values.items()}
            return {**cells, "published_source": f"{row.source}, {row.backbone}"}
    return {}
