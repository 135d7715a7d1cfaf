"""What the demo does, step by step: each is a verb that people can type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.bench import Result, bench, machine
from degmix_edge.build import Clock, Options, build
from degmix_edge.bundle import Bundle, open_bundle
from degmix_edge.cli._files import make_folder, write_file
from degmix_edge.cli._output import Output, plain
from degmix_edge.cli._quantizing import OBSERVER, calibrator
from degmix_edge.cli._sources import NamedImage, images, network, photographs
from degmix_edge.cli._torch import reference
from degmix_edge.cli.bench import show as show_bench
from degmix_edge.cli.compare import TENSOR_IMAGES
from degmix_edge.cli.compare import show as show_comparison
from degmix_edge.compare import Comparison, compare, tensor_differences
from degmix_edge.errors import AccuracyError, BundleError
from degmix_edge.preprocess import Fit, fit_image
from degmix_edge.report.page import Panel, Report, Row, Table, render
from degmix_edge.report.sheet import contact_sheet
from degmix_edge.runtime import Session, load
from degmix_edge.tasks import TaskSpec, colour

CHECKPOINT = "degmix_tiny"
CALIBRATION = "synthetic:64"
SCENES = {"fp32": 16, "int8": None}
"""FP32 is equal to rounding, tensor by tensor; sixteen scenes are plenty. INT8 takes all."""
SCENES_SHOWN = 3
FAR_M = 6.0
"""Far end of the depth colours, one for all pictures so that they can be compared."""


@dataclass(frozen=True)
class Results:
    """Numbers of a demo, and whether both bundles are within tolerance."""

    values: dict[str, Any]
    comparisons: dict[str, Comparison]

    def check(self) -> None:
        """Raise AccuracyError where a bundle is out of tolerance."""
        bad = [f"{name}: {c.verdict}" for name, c in self.comparisons.items() if not c.passed]
        if bad:
            raise AccuracyError("; ".join(bad))


def run(output: Output, out: Path, *, scenes: int, calls: int, fresh: bool) -> Results:
    """All of it; see the verb."""
    make_folder(out)
    bundles = {p: _bundle(output, out, p, fresh) for p in ("fp32", "int8")}
    torch_session = reference(bundles["int8"], None)
    fit = bundles["int8"].manifest.fit
    specs = {task.name: task for task in bundles["int8"].manifest.network.tasks}
    held_out = images(f"synthetic:{scenes}", fit, specs=specs)
    photos = photographs()
    sessions = {p: load(b) for p, b in bundles.items()}
    try:
        comparisons = {
            p: _compare(output, bundles[p], sessions[p], torch_session, held_out[: SCENES[p]])
            for p in bundles
        }
        timed = {"engine int8": sessions["int8"], "engine fp32": sessions["fp32"]}
        timed["PyTorch eager"] = torch_session
        with output.progress("bench", calls * len(timed)) as advance:
            pictures = [item.image for item in photos]
            latencies = bench(timed, pictures, calls=calls, advance=advance)
        panels = [
            _panel(item, {"PyTorch fp32": torch_session, "engine int8": sessions["int8"]})
            for item in (*photos, *held_out[:SCENES_SHOWN])
        ]
    finally:
        for session in (*sessions.values(), torch_session):
            session.close()
    show_bench(output, latencies, f"photographs on {machine()['cpu']}")
    values = _values(bundles, comparisons, latencies, scenes)
    _write(output, out, bundles, comparisons, latencies, panels, values)
    return Results(values, comparisons)


def _bundle(output: Output, out: Path, precision: str, fresh: bool) -> Bundle:
    """The bundle of an earlier demo if it is whole and of this checkpoint, else a new one."""
    from degmix_training.checkpoint import load as load_checkpoint
    from degmix_training.checkpoint import locate

    target = out / f"{CHECKPOINT}.{precision}.degmix"
    checkpoint = load_checkpoint(locate(CHECKPOINT))
    if target.exists() and not fresh:
        try:
            opened = open_bundle(target)
            if opened.manifest.network.source.sha256 == checkpoint.sha256:
                output.say(f"{target}: from an earlier demo (--fresh builds it again)")
                return opened
        except BundleError as error:
            output.warn(f"{error}; building it again")
    output.say(f"building {target}")
    clock = Clock(lambda s: output.say(f"  {s.name:<13}{s.seconds:6.1f} s  {s.detail}"))
    with output.working("export"):
        model, spec = network(CHECKPOINT, clock.done)
    fit = Fit(height=spec.height, width=spec.width)
    found = images(CALIBRATION, fit, split="train")
    clock.done("images", f"{len(found)} scenes")
    return build(
        model,
        spec,
        target,
        Options(precision=precision),  # type: ignore[arg-type]
        golden_image=found[0].fitted(fit),
        calibrate=calibrator(output, found, fit, {"observer": OBSERVER}),
        observer=OBSERVER,
        force=True,
        clock=clock,
    )


def _compare(
    output: Output,
    bundle: Bundle,
    session: Session,
    torch_session: Session,
    held_out: Sequence[NamedImage],
) -> Comparison:
    tensors = tensor_differences(
        bundle,
        torch_session.backend,
        [item.fitted(bundle.manifest.fit) for item in held_out[:TENSOR_IMAGES]],
    )
    with output.progress("compare", len(held_out)) as advance:
        pairs = (item.load() for item in held_out)
        comparison = compare(session, torch_session, pairs, tensors, advance=advance)
    show_comparison(output, {"engine": comparison}, bundle.manifest.precision, "held-out scenes")
    return comparison


def _panel(item: NamedImage, sessions: dict[str, Session]) -> Panel:
    rows, (image, labels) = [], item.load()
    for label, session in sessions.items():
        maps = session(image)
        rows.append(Row(label, {name: m.colour(FAR_M) for name, m in maps.items()}))
        tasks = session.spec.tasks
    if labels:
        rows.append(Row("labels", _label_pictures(labels, tasks)))
    kind = "held-out synthetic scene" if labels else "photograph from scikit-image"
    pixels, placement = fit_image(image, session.fit)
    return Panel(item.name, kind, placement.crop(pixels), tuple(rows))


def _label_pictures(
    labels: Mapping[str, np.ndarray], tasks: Sequence[TaskSpec]
) -> dict[str, np.ndarray]:
    return {
        task.name: colour(labels[task.name].astype(dtype, copy=False), task, FAR_M)
        for task in tasks
        if task.name in labels
        for dtype in [np.uint8 if task.decode == "argmax" else np.float32]
    }


def _values(
    bundles: dict[str, Bundle],
    comparisons: dict[str, Comparison],
    latencies: dict[str, Result],
    scenes: int,
) -> dict[str, Any]:
    sizes = {p: bundle.size_bytes for p, bundle in bundles.items()}
    eager = latencies["PyTorch eager"].median_net_ms
    return {
        "passed": all(c.passed for c in comparisons.values()),
        "scenes": scenes,
        "size_bytes": sizes,
        "size_ratio": sizes["int8"] / sizes["fp32"],
        "speedup_net": {
            p: eager / latencies[f"engine {p}"].median_net_ms for p in ("int8", "fp32")
        },
        "comparisons": comparisons,
        "latencies": latencies,
        "machine": machine(),
        "versions": bundles["int8"].manifest.versions,
    }


def _write(
    output: Output,
    out: Path,
    bundles: dict[str, Bundle],
    comparisons: dict[str, Comparison],
    latencies: dict[str, Result],
    panels: Sequence[Panel],
    values: dict[str, Any],
) -> None:
    spec = bundles["int8"].manifest.network
    ratio, speedup = values["size_ratio"], values["speedup_net"]["int8"]
    verdict = (
        f"INT8 is {ratio:.2f} x the size of FP32, its engine call {speedup:.1f} x as fast as "
        f"PyTorch eager; {comparisons['int8'].verdict}"
    )
    where, versions = values["machine"], values["versions"]
    report = Report(
        title=f"{CHECKPOINT}: {len(spec.tasks)} tasks, PyTorch against the INT8 engine",
        verdict=verdict,
        passed=values["passed"],
        facts=(
            ("Network", f"{spec.model}, {spec.height}x{spec.width}, {spec.source.name}"),
            ("Trained on", "synthetic scenes only: photographs show the pipeline, not accuracy"),
            ("Machine", f"{where['cpu']}, {where['cores']} cores, {where['system']}"),
            ("Measured", f"{where['date']}, Python {where['python']}"),
            ("Versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
            ("FP32 bundle", f"{values['size_bytes']['fp32'] / 1e6:.2f} MB"),
            ("INT8 bundle", f"{values['size_bytes']['int8'] / 1e6:.2f} MB, {ratio:.3f} of FP32"),
        ),
        tables=(
            *(_accuracy(p, c) for p, c in comparisons.items()),
            _tensors(comparisons["fp32"]),
            _latency(latencies),
        ),
        tasks=spec.tasks,
        panels=tuple(panels),
        commands=_commands(out),
    )
    write_file(out / "report.html", render(report).encode(), force=True)
    contact_sheet(panels, spec.tasks).save(out / "sheet.png")
    text = json.dumps(values, indent=1, default=plain)
    write_file(out / "results.json", text.encode(), force=True)
    output.say(verdict)
    output.say(f"report: {(out / 'report.html').absolute().as_uri()}")
    output.say(f"pictures: {out / 'sheet.png'}, numbers: {out / 'results.json'}")


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
        for t in comparison.tasks
    )
    return Table(
        f"Accuracy of the {precision} engine",
        ("task", "metric", "PyTorch", "engine", "worse by", "engine on PyTorch's maps"),
        rows,
        note=f"{comparison.images} held-out synthetic scenes. Allowed: 2 % worse.",
        bad=tuple(i for i, t in enumerate(comparison.tasks) if not (t.drop or 0) <= 0.02),
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


def _commands(out: Path) -> tuple[tuple[str, str], ...]:
    int8 = out / f"{CHECKPOINT}.int8.degmix"
    return (
        (
            "Build",
            f"degmix-edge build engine {CHECKPOINT} --calib {CALIBRATION} --out robot.degmix",
        ),
        ("Run", f"degmix-edge run {int8} photo.jpg --out maps/"),
        ("Compare", f"degmix-edge compare {int8} --data synthetic:64"),
        ("Time", f"degmix-edge bench {int8} --against torch"),
        ("Verify", f"degmix-edge verify {int8}"),
        ("Look inside", f"degmix-edge inspect {int8} --nodes"),
        ("Train", f"degmix-edge train {CHECKPOINT} --out runs/mine"),
    )
