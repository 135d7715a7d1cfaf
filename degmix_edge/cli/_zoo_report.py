"""The zoo's table and chart: HTML, CSV, JSON, PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.cli._files import write_file
from degmix_edge.cli._output import Output, plain

if TYPE_CHECKING:
    from degmix_training.zoo import ZooConfig

    from degmix_edge.cli._zoo_score import Network

Cells = dict[str, str]


def write(
    output: Output,
    zoo: ZooConfig,
    networks: Sequence[Network],
    baselines: Mapping[str, tuple[float, str]],
    latencies: Mapping[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Write everything; what `--json` prints is returned."""
    from degmix_edge.bench import machine
    from degmix_edge.build import versions
    from degmix_edge.report.page import Figure, Report, render

    ordered = sorted(networks, key=lambda n: -n.delta_m.get("int8", float("-inf")))
    cost, accuracy = _cost_table(ordered), _accuracy_table(ordered, baselines)
    output.table("cost", list(cost[0]), [list(row.values()) for row in cost])
    output.table("accuracy", list(accuracy[0]), [list(row.values()) for row in accuracy])
    png, svg = _chart(zoo, ordered)
    write_file(out / "zoo.png", png, force=True)
    _write_csv(out / "zoo.csv", zoo, ordered, baselines)
    where, train = machine(), zoo.train
    values = {
        "zoo": zoo,
        "networks": ordered,
        "baselines": {t: {"value": v, "of": name} for t, (v, name) in baselines.items()},
        "latencies": latencies,
        "machine": where,
        "versions": versions(),
    }
    text = json.dumps(values, indent=1, default=plain)
    write_file(out / "zoo.json", text.encode(), force=True)
    remarks = [f"{n.name}: {remark}" for n in ordered for remark in n.remarks]
    best = ordered[0]
    verdict = (
        f"best in INT8: {best.name}, delta_m {best.delta_m.get('int8', float('nan')):+.1f} % "
        f"against {_reference_words(zoo)}; "
        + (f"{len(remarks)} remarks below" if remarks else "every task is within 2 % of FP32")
    )
    report = Report(
        title=f"{len(ordered)} networks on {train.data.name}, {train.height}x{train.width}",
        verdict=verdict,
        passed=not remarks,
        facts=(
            ("Budget", f"{train.steps} steps of {train.batch_size} images each, one recipe"),
            ("Backbone", f"{zoo.backbone}, but for networks that bring their own (see the table)"),
            ("delta_m", f"mean gain over {_reference_words(zoo)}, percent; higher is better"),
            ("Machine", f"{where['cpu']}, {where['cores']} cores, {where['system']}"),
            ("Measured", f"{where['date']}, Python {where['python']}"),
            ("Versions", ", ".join(f"{k} {v}" for k, v in values["versions"].items())),
            *((f"Remark {i + 1}", remark) for i, remark in enumerate(remarks)),
        ),
        tables=_tables(zoo, cost, accuracy, ordered),
        tasks=(),
        panels=(),
        figures=(Figure("What it reaches against what it costs", _chart_note(zoo), svg),),
        commands=(("Again", f"degmix-edge zoo {out / 'zoo.yaml'} --out {out}"),),
    )
    write_file(out / "zoo.html", render(report).encode(), force=True)
    for remark in remarks:
        output.warn(remark)
    output.say(verdict)
    output.say(f"report: {(out / 'zoo.html').absolute().as_uri()}")
    output.say(f"table: {out / 'zoo.csv'}, chart: {out / 'zoo.png'}, numbers: {out / 'zoo.json'}")
    return values


def _reference_words(zoo: ZooConfig) -> str:
    if zoo.reference == "single":
        return "single-task networks of the same budget and backbone"
    return "the multi-task baseline of the same budget and backbone"


def _cost_table(networks: Sequence[Network]) -> list[Cells]:
    rows = []
    for n in networks:
        row = {
            "network": n.name,
            "backbone": n.backbone,
            "params M": f"{n.params / 1e6:.2f}",
            "GMAC": f"{n.gmac['trained']:.3f}",
            "folded": f"{n.gmac['fp32']:.3f}",
            "INT8 form": f"{n.gmac['int8']:.3f}",
        }
        for backend, found in n.latency_ms.items():
            row |= {f"{backend} {p} ms": f"{ms:.2f}" for p, ms in found.items()}
        row |= {f"{p} MB": f"{size / 1e6:.2f}" for p, size in n.size_bytes.items()}
        row["flips"] = f"{100 * n.flips['total']:.1f} %" if n.flips else "-"
        rows.append(row)
    return rows


def _accuracy_table(
    networks: Sequence[Network], baselines: Mapping[str, tuple[float, str]]
) -> list[Cells]:
    from degmix_edge import metrics, tasks

    def title(task: str) -> str:
        kind = metrics.find(tasks.find(task).metric)
        return f"{task} {kind.name} [{kind.unit}]"

    rows = []
    for n in networks:
        for precision, values in (("fp32", n.values), ("int8", n.int8)):
            gain = n.delta_m.get(precision)
            row = {"network": n.name, "form": precision}
            row["delta_m [%]"] = "-" if gain is None else f"{gain:+.2f}"
            for task in n.values:
                text = f"{values[task]:.3f}" if task in values else "-"
                if precision == "int8" and task in n.drop:
                    text += f" ({-100 * n.drop[task]:+.1f} %)"
                row[title(task)] = text
            rows.append(row)
    base = {"network": "compared with", "form": "fp32", "delta_m [%]": "0"}
    base |= {title(t): f"{baselines[t][0]:.3f}" for t in networks[0].values if t in baselines}
    return [*rows, base]


def _tables(
    zoo: ZooConfig, cost: list[Cells], accuracy: list[Cells], networks: Sequence[Network]
) -> tuple[Any, ...]:
    bad = tuple(2 * i + 1 for i, n in enumerate(networks) if n.remarks)  # its INT8 row
    note = (
        "GMAC: of the trained network; folded: after exact folds and passes; INT8 form: mixtures "
        "of experts stay as they are. Milliseconds: median of one engine call, all networks "
        "alternating in one run. Flips: choices of experts that differ from FP32 because their "
        "inputs come from INT8 layers; routers themselves are float and flip none."
    )
    split = f"{zoo.train.data.val or 'all'} validation samples of {zoo.train.data.name}"
    return (
        _table("Cost", cost, note),
        _table(
            "Accuracy",
            accuracy,
            f"On {split}. In brackets: INT8 against FP32; minus is worse.",
            bad,
        ),
        *_published(zoo, networks),
    )


def _table(title: str, rows: list[Cells], note: str, bad: tuple[int, ...] = ()) -> Any:
    from degmix_edge.report.page import Table

    return Table(title, tuple(rows[0]), tuple(tuple(r.values()) for r in rows), note, bad)


def _published(zoo: ZooConfig, networks: Sequence[Network]) -> list[Any]:
    """What others print about these networks: their data, sizes and backbones, not ours."""
    from degmix_training import published

    from degmix_edge.report.page import Table

    models = {n.model for n in networks}
    made = []
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
        same = "the same data set" if data == zoo.train.data.name else "another data set"
        note = f"Printed by others, none measured here; {same}, other budgets and sizes."
        made.append(Table(f"Published figures, {data}", heads, cells, note))
    return made


def _chart_note(zoo: ZooConfig) -> str:
    return (
        f"delta_m of the INT8 engine against {_reference_words(zoo)}. Up and to the left is better."
    )


def _chart(zoo: ZooConfig, networks: Sequence[Network]) -> tuple[bytes, str]:
    from degmix_edge.report.scatter import Axis, scatter

    gains = {n.name: n.delta_m.get("int8", float("nan")) for n in networks}
    axes = [
        Axis("multiply-adds of the INT8 graph [G]", {n.name: n.gmac["int8"] for n in networks}),
        Axis("parameters [M]", {n.name: n.params / 1e6 for n in networks}),
        Axis("INT8 bundle [MB]", {n.name: n.size_bytes["int8"] / 1e6 for n in networks}),
    ]
    for backend in networks[0].latency_ms:
        axes += [
            Axis(f"{backend}, {p} [ms]", {n.name: n.latency_ms[backend][p] for n in networks})
            for p in ("int8", "fp32")
        ]
    title = f"{zoo.train.data.name}, {zoo.train.height}x{zoo.train.width}, {zoo.train.steps} steps"
    words = "single-task" if zoo.reference == "single" else "multi-task baseline"
    return scatter(title, Axis("delta_m, INT8 [%]", gains), axes, zero=words)


def _write_csv(
    path: Path,
    zoo: ZooConfig,
    networks: Sequence[Network],
    baselines: Mapping[str, tuple[float, str]],
) -> None:
    """One row a network, one number a cell; published figures in columns that say so."""
    rows = []
    for n in networks:
        row: dict[str, Any] = {
            "network": n.name,
            "model": n.model,
            "backbone": n.backbone,
            "params": n.params,
            "step": n.step,
            **{f"gmac_{form}": value for form, value in n.gmac.items()},
            **{f"delta_m_{p}": value for p, value in n.delta_m.items()},
        }
        for backend, found in n.latency_ms.items():
            row |= {f"latency_ms_{backend}_{p}": value for p, value in found.items()}
        row |= {f"size_bytes_{p}": size for p, size in n.size_bytes.items()}
        row |= {f"flips_{kind}": n.flips.get(kind, "") for kind in ("router", "total")}
        for task, value in n.values.items():
            row |= {f"{task}_fp32": value, f"{task}_int8": n.int8.get(task, "")}
            row[f"{task}_compared_with"] = baselines.get(task, ("", ""))[0]
        row |= _published_cells(zoo, n)
        row["remarks"] = "; ".join(n.remarks)
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode(), force=True)


def _published_cells(zoo: ZooConfig, network: Network) -> dict[str, Any]:
    """Of this model and data set, whatever its backbone: the first row that is printed."""
    from degmix_training import published

    for row in published.rows():
        if (row.data, row.model) == (zoo.train.data.name, network.model):
            cells = {f"published_{task}": value for task, (_, value) in row.values.items()}
            return {**cells, "published_source": f"{row.source}, {row.backbone}"}
    return {}
