"""The page and the pictures that the demo writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.bundle.contents import Bundle
from degmix_edge.errors import AccuracyError
from degmix_edge.files import write_file
from degmix_edge.report.gallery import Gallery
from degmix_edge.report.page import Report, Table, render
from degmix_edge.report.sheet import contact_sheet
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.report.values import json_text
from degmix_edge.report.views import Panel
from degmix_edge.workflows.bench import Result, latency_table
from degmix_edge.workflows.compare_report import accuracy_charts, latency_chart
from degmix_edge.workflows.comparison import Comparison, comparison_text

CHECKPOINT = "degmix_lite0"
DATA = "synthetic_varied"
CALIBRATION = f"{DATA}:64"
KEEP_FLOAT = (
    "backbone.network.blocks.0.0.conv_dw/Conv",
    "backbone.network.blocks.1.0.conv_dw/Conv",
)
"""Nodes that stay FP32 in the INT8 bundle: 1 % of the multiply-adds, and most of what INT8 costs.

The first alone moves normals by a fifth of their error, and depth by a third."""

TRAINED_ON = (
    "rendered scenes, from a backbone that began with weights of ImageNet; on photographs, what "
    "scenes lack gets the name of what is nearest"
)


@dataclass(frozen=True)
class Demo(Readable):
    """What a demo built and measured.

    Attributes:
        out: Its folder.
        bundles: The FP32 and the INT8 bundle, by precision.
        comparisons: Each bundle against PyTorch, by precision.
        latencies: By contestant: both engines and PyTorch eager.
        values: All numbers, as results.json has them.
        checkpoint, calibration: What the bundles were built from.
    """

    out: Path
    bundles: dict[str, Bundle]
    comparisons: dict[str, Comparison]
    latencies: dict[str, Result]
    values: dict[str, Any]
    checkpoint: str = CHECKPOINT
    calibration: str = CALIBRATION

    @property
    def verdict(self) -> str:
        """Size, speed and accuracy of the INT8 engine in one line."""
        ratio, speedup = self.values["size_ratio"], self.values["speedup_net"]["int8"]
        return (
            f"INT8 is {ratio:.2f} x the size of FP32, its engine call {speedup:.1f} x as fast as "
            f"PyTorch eager; {self.comparisons['int8'].verdict}"
        )

    def text(self) -> Iterator[str | TextTable]:
        """Yield what was compared and timed, the verdict, and where the files are."""
        for comparison in self.comparisons.values():
            yield from comparison_text({"engine": comparison}, "held-out scenes")
        yield latency_table(self.latencies, f"photographs on {self.values['machine']['cpu']}")
        yield self.verdict
        yield f"report: {(self.out / 'report.html').absolute().as_uri()}"
        yield f"pictures: {self.out / 'sheet.png'}, numbers: {self.out / 'results.json'}"

    def check(self) -> None:
        """Fail where a bundle is out of tolerance.

        Raises:
            AccuracyError: Names the bundle and the task.
        """
        bad = [f"{name}: {c.verdict}" for name, c in self.comparisons.items() if not c.passed]
        if bad:
            raise AccuracyError("; ".join(bad))


def write_report(demo: Demo, panels: Sequence[Panel]) -> None:
    """Write report.html, sheet.png and results.json into the demo's folder."""
    spec, out = demo.bundles["int8"].manifest.network, demo.out
    values = demo.values
    where, versions = values["machine"], values["versions"]
    report = Report(
        title=f"{demo.checkpoint}: {len(spec.tasks)} tasks, PyTorch against the INT8 engine",
        verdict=demo.verdict,
        passed=values["passed"],
        gallery=Gallery(panels),
        charts=(
            latency_chart(demo.latencies),
            accuracy_charts({"engine int8": demo.comparisons["int8"]}),
        ),
        facts=(
            ("Network", f"{spec.model}, {spec.height}x{spec.width}, {spec.source.name}"),
            ("Trained on", TRAINED_ON),
            ("Machine", f"{where['cpu']}, {where['cores']} cores, {where['system']}"),
            ("Measured", f"{where['date']}, Python {where['python']}"),
            ("Versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
            ("FP32 bundle", f"{values['size_bytes']['fp32'] / 1e6:.2f} MB"),
            (
                "INT8 bundle",
                f"{values['size_bytes']['int8'] / 1e6:.2f} MB, {values['size_ratio']:.3f} of FP32",
            ),
        ),
        tables=(
            *(_accuracy(p, c) for p, c in demo.comparisons.items()),
            _tensors(demo.comparisons["fp32"]),
            _latency(demo.latencies),
        ),
        commands=_commands(out, demo.checkpoint, demo.calibration),
    )
    write_file(out / "report.html", render(report).encode(), force=True)
    contact_sheet(panels).save(out / "sheet.png")
    write_file(out / "results.json", json_text(values).encode(), force=True)


def _accuracy(precision: str, comparison: Comparison) -> Table:
    rows = tuple(
        (
            t.task,
            f"{t.metric} [{t.unit}]",
            f"{t.reference:.3f}",
            f"{t.value:.3f}",
            f"{100 * (t.drop or 0):+.2f} %",
            f"{t.agreement:.3f}",
        )
        for t in comparison.tasks.values()
    )
    return Table(
        f"Accuracy of the {precision} engine",
        ("task", "metric", "PyTorch", "engine", "worse by", "engine on PyTorch's maps"),
        rows,
        note=f"{comparison.images} held-out synthetic scenes. Allowed: 2 % worse.",
        bad=tuple(i for i, t in enumerate(comparison.tasks.values()) if not (t.drop or 0) <= 0.02),
    )


def _tensors(comparison: Comparison) -> Table:
    rows = tuple(
        (
            t.name,
            f"{t.relative:.1e}",
            f"{t.mean:.1e}",
            "-" if t.equal is None else f"{100 * t.equal:.3f} %",
        )
        for t in comparison.tensors
    )
    columns = ("tensor", "largest difference", "mean difference", "equal classes")
    note = "As fractions of the largest value; polygraphy's ONNX Runtime runner."
    return Table("FP32 model.onnx against PyTorch, tensor by tensor", columns, rows, note)


def _latency(latencies: dict[str, Result]) -> Table:
    rows = tuple(
        (name, part.removesuffix("_ms"), *(f"{found[p]:.2f}" for p in ("p50", "p90", "p99")))
        for name, result in latencies.items()
        for part, found in result.percentiles.items()
    )
    calls = next(iter(latencies.values())).calls
    return Table(
        "Latency, milliseconds",
        ("", "part", "p50", "p90", "p99"),
        rows,
        note=f"{calls} calls each, alternating in one run. pre: resize; net: bytes in to maps out.",
    )


def _commands(out: Path, checkpoint: str, calibration: str) -> tuple[tuple[str, str], ...]:
    int8 = out / f"{checkpoint}.int8.degmix"
    keep = " ".join(f"--keep-float {node}" for node in KEEP_FLOAT)
    built = f"{checkpoint} --calib {calibration} {keep}"
    return (
        ("Build", f"degmix-edge build engine {built} --out robot.degmix"),
        ("Run", f"degmix-edge run {int8} photo.jpg --out maps/"),
        ("Compare", f"degmix-edge compare {int8} --data {DATA}:64"),
        ("Time", f"degmix-edge bench {int8} --against torch"),
        ("Verify", f"degmix-edge verify {int8}"),
        ("Look inside", f"degmix-edge inspect {int8} --nodes"),
        ("Train", f"degmix-edge train {checkpoint} --out runs/mine"),
    )
