"""The rows of a zoo: what each network costs, what it scores, what others publish."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from degmix_edge import metrics, tasks
from degmix_edge.report.page import Table
from degmix_edge.report.text import Doubt, TextTable
from degmix_edge.workflows.zoo.result import PRECISIONS

if TYPE_CHECKING:
    from degmix_edge.workflows.zoo.result import Baseline, ZooResult, ZooRow

Cells = dict[str, str]
COST_NOTE = (
    "GMAC: of the trained network; folded: after exact folds and passes; INT8 form: mixtures "
    "of experts stay as they are. Milliseconds: median of one engine call, all networks "
    "alternating in one run. Flips: choices of experts that differ from FP32 because their "
    "inputs come from INT8 layers; routers themselves are float and flip none."
)


def zoo_text(result: ZooResult) -> Iterator[str | TextTable]:
    """Yield what networks cost and score, the remarks, the verdict, and where the files are."""
    for table in (cost_table(result), accuracy_table(result)):
        yield TextTable(table.title.lower(), table.columns, table.rows)
    yield from map(Doubt, result.remarks)
    yield result.verdict
    yield f"report: {result.page.absolute().as_uri()}"
    yield f"table: {result.table}, chart: {result.chart}, numbers: {result.numbers}"


def cost_table(result: ZooResult) -> Table:
    """A row for each network: parameters, multiply-adds, latency, size, expert flips."""
    return _table("Cost", [_cost_cells(row) for row in result.networks], COST_NOTE)


def accuracy_table(result: ZooResult) -> Table:
    """Two rows for each network, FP32 and INT8, and the row that they are compared with.

    INT8 rows of networks with a remark are marked as bad.
    """
    rows = [_score_cells(result, row, form) for row in result.networks for form in PRECISIONS]
    last = _compared_cells(result.baselines, result.networks[0].values, "fp32")
    train = result.zoo.train
    split = f"{train.data.val or 'all'} validation samples of {train.data.name}"
    note = f"On {split}. In brackets: INT8 against FP32; minus is worse."
    bad = tuple(2 * i + 1 for i, row in enumerate(result.networks) if row.remarks)
    return _table("Accuracy", [*rows, last], note + _seeds_note(result), bad)


def elsewhere_tables(result: ZooResult) -> list[Table]:
    """A table for each data set beside the zoo's own: scores, delta_m and calibration there."""
    tables = []
    for source in result.zoo.also:
        rows = [_elsewhere_cells(result, row, source) for row in result.networks]
        first = result.networks[0].also[source]
        last = _compared_cells(result.also[source], first.values)
        note = f"PyTorch FP32 on {first.images} images of {source}." + _seeds_note(result)
        tables.append(_table(f"Accuracy on {source}", [*rows, last], note))
    return tables


def seeds_tables(result: ZooResult) -> list[Table]:
    """A table of all trainings where networks have several seeds, else none."""
    if len(result.trainings) == len(result.networks):
        return []
    rows = []
    for row in result.trainings:
        cells = {"network": _name(result, row), "seed": str(row.seeds[0]), "step": str(row.step)}
        cells |= {f"delta_m {p} [%]": gain_text(row.delta_m.get(p)) for p in PRECISIONS}
        cells |= {f"{_title(t)}, INT8": value_text(value) for t, value in row.int8.items()}
        rows.append(cells)
    note = "The step is that of the checkpoint: the best of its training on the validation split."
    return [_table("Every training", rows, note)]


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


def gain_text(value: float | None, deviation: float | None = None) -> str:
    """Return a gain in percent, with its standard deviation where there is one."""
    if value is None:
        return "-"
    return f"{value:+.2f}" if deviation is None else f"{value:+.2f} ± {deviation:.2f}"


def value_text(value: float | None, deviation: float | None = None) -> str:
    """Return the value of a metric, with its standard deviation where there is one."""
    if value is None:
        return "-"
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def _name(result: ZooResult, row: ZooRow) -> str:
    """The network's name; it says where ASHA ended its training."""
    if not row.stopped_at:
        return row.name
    steps = result.zoo.settings(row.name).steps
    return f"{row.name} (stopped at step {row.stopped_at} of {steps})"


def _seeds_note(result: ZooResult) -> str:
    """What mean and deviation are of, where there are several seeds."""
    if len(result.zoo.all_seeds) == 1:
        return ""
    return (
        " Means and standard deviations (n - 1) over the trainings that column `seeds` counts; "
        "delta_m of each seed is against the networks of that seed."
    )


def _compared_cells(
    baselines: Mapping[str, Baseline], shown: Iterable[str], form: str = ""
) -> Cells:
    """The row that networks are compared with, for the tasks that are shown."""
    cells = {"network": "compared with", **({"form": form} if form else {})}
    seeds = {len(baseline.seeds) for baseline in baselines.values()}
    cells |= {"seeds": str(max(seeds, default=0)), "delta_m [%]": "0"}
    for task in shown:
        one = baselines.get(task)
        if one is None:
            cells[_title(task)] = value_text(None)
        else:
            cells[_title(task)] = value_text(one.value, one.std if len(one.seeds) > 1 else None)
    return cells


def _elsewhere_cells(result: ZooResult, row: ZooRow, source: str) -> Cells:
    one = row.also[source]
    std = {name: one.std.get(name, {}) for name in ("values", "calibration", "delta_m")}
    cells = {"network": _name(result, row), "seeds": str(len(row.seeds))}
    cells["delta_m [%]"] = gain_text(one.delta_m.get("fp32"), std["delta_m"].get("fp32"))
    for task, value in one.values.items():
        cells[_title(task)] = value_text(value, std["values"].get(task))
    for task, value in one.calibration.items():
        cells[f"{task} ece [%]"] = value_text(value, std["calibration"].get(task))
    return cells


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


def _score_cells(result: ZooResult, row: ZooRow, form: str) -> Cells:
    values, name = (row.values, "values") if form == "fp32" else (row.int8, "int8")
    deviations = row.std.get(name, {})
    cells = {"network": _name(result, row), "form": form, "seeds": str(len(row.seeds))}
    cells["delta_m [%]"] = gain_text(row.delta_m.get(form), row.deviation(form))
    for task in row.values:
        text = value_text(values.get(task), deviations.get(task))
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
        "seeds": len(row.seeds),
        "stopped_at": row.stopped_at or "",
        **{f"gmac_{form}": value for form, value in row.gmac.items()},
        **{f"delta_m_{p}": value for p, value in row.delta_m.items()},
        **{f"delta_m_{p}_std": value for p, value in row.std.get("delta_m", {}).items()},
    }
    for backend, latencies in row.latency_ms.items():
        cells |= {f"latency_ms_{backend}_{p}": value for p, value in latencies.items()}
    cells |= {f"size_bytes_{p}": size for p, size in row.size_bytes.items()}
    cells |= {f"flips_{kind}": row.flips.get(kind, "") for kind in ("router", "total")}
    for task, value in row.values.items():
        cells |= {f"{task}_fp32": value, f"{task}_int8": row.int8.get(task, "")}
        for form, name in (("fp32", "values"), ("int8", "int8")):
            if task in row.std.get(name, {}):
                cells[f"{task}_{form}_std"] = row.std[name][task]
        baseline = result.baselines.get(task)
        cells[f"{task}_compared_with"] = "" if baseline is None else baseline.value
    for source, one in row.also.items():
        cells |= {f"{task}_fp32 on {source}": value for task, value in one.values.items()}
        cells |= {f"{task}_ece on {source}": value for task, value in one.calibration.items()}
        cells[f"delta_m_fp32 on {source}"] = one.delta_m.get("fp32", "")
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
