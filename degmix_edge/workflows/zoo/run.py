"""A zoo from its settings to its report.

Everything that takes long leaves files in `OUT/NAME/`, and is not done again while what it was made
of is the same: `run/` (the training, resumed from its last validation), two bundles, `row.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge import tasks
from degmix_edge.errors import ConfigError
from degmix_edge.files import make_folder
from degmix_edge.preprocess import Fit
from degmix_edge.progress import Progress, counting, note
from degmix_edge.workflows.zoo.plan import check_given, claim_folder, load_zoo, trainings
from degmix_edge.workflows.zoo.result import PRECISIONS, Baseline, ZooResult, ZooRow
from degmix_edge.workflows.zoo.train import train_networks

if TYPE_CHECKING:
    from degmix_training.processes import Machine
    from degmix_training.zoo import ZooConfig

    from degmix_edge.report.gallery import Gallery
    from degmix_edge.workflows.bench import Result

BENCH_IMAGES = "synthetic:4"
SHOWN = 4
"""Validation samples whose maps are on the page."""


def zoo(
    name: str | Path = "smoke",
    out: str | Path = Path("runs/zoo"),
    *,
    models: Sequence[str] = (),
    checkpoints: Mapping[str, str | Path] | None = None,
    overrides: Sequence[str] = (),
    data: str | None = None,
    backends: Sequence[str] = ("onnxruntime",),
    calibration_count: int = 32,
    calls: int = 30,
    force: bool = False,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> ZooResult:
    """Train networks the same way, export, quantize and time them, and compare them in one table.

    `out` gets zoo.html, zoo.csv, zoo.json and zoo.png. The function is resumable: what is finished
    in `out` is not done again, and a training restarts from its last validation.

    Args:
        name: The name of a zoo, or a path to a YAML file.
        out: The folder.
        models: Entries to compare; empty compares all of the zoo.
        checkpoints: Checkpoints that take the place of a training, by entry.
        overrides: Changes of settings, as in `train.steps=100`.
        data: A data set and its folder, as in `nyud:NYUDv2`; None is that of the zoo.
        backends: Names of the backends to time.
        calibration_count: Training images to calibrate INT8 with.
        calls: Calls that are timed, for each network and precision.
        force: Start anew in an `out` that holds a zoo of other settings.
        machine: What each training runs on; None is one process on the best accelerator.
        progress: Gets events.

    Raises:
        ConfigError: There is no such zoo, entry or backend, or a setting does not fit.
        CheckpointError: A checkpoint is missing, damaged, or not one of its entry.
        OutputError: `out` holds a zoo of other settings, or cannot be written.
        DegmixError: A network cannot be trained, built or run.
        KeyboardInterrupt: It was interrupted; what was saved stays.
    """
    from degmix_training.processes import first_listening, is_first_process

    from degmix_edge import backends as registered

    out = Path(out)
    with first_listening(progress):
        settings = load_zoo(name, models, overrides, data)
        for backend in backends:
            registered.choose(backend, to_build=True)
        given = check_given(settings, checkpoints or {})
        make_folder(out)
        if is_first_process():
            claim_folder(settings, out, force=force)
        runs = {n: s for n, s in trainings(settings).items() if n not in given}
        train_networks(runs, out, machine)
        if not is_first_process():
            return ZooResult(settings, out)
        rows = _rows(settings, out, given, calibration_count)
        return _compared(settings, out, rows, backends, calls)


def _compared(
    zoo: ZooConfig, out: Path, rows: list[ZooRow], backends: Sequence[str], calls: int
) -> ZooResult:
    """Compare the networks with each other, and write the files."""
    from degmix_edge.workflows.bench import machine
    from degmix_edge.workflows.engine import versions
    from degmix_edge.workflows.zoo.report import write_zoo

    baselines = _baselines(zoo, out)
    for row in rows:
        _compare_with(row, baselines)
    latencies = {backend: _time(zoo, out, rows, backend, calls) for backend in backends}
    ordered = tuple(sorted(rows, key=lambda row: -row.rank))
    result = ZooResult(zoo, out, ordered, baselines, latencies, machine(), versions())
    write_zoo(result, _gallery(result))
    return result


def _rows(
    zoo: ZooConfig, out: Path, given: Mapping[str, Path], calibration_count: int
) -> list[ZooRow]:
    """Build and score every network."""
    from degmix_edge.workflows.zoo.score import score_network

    rows = []
    for index, entry in enumerate(zoo.entries):
        note(f"{entry}: build and score, {index + 1} of {len(zoo.entries)}")
        path = given.get(entry) or _best(out, entry)
        rows.append(score_network(zoo, entry, path, out / entry, calibration_count))
    return rows


def _best(out: Path, name: str) -> Path:
    return out / name / "run" / "best.safetensors"


def _baselines(zoo: ZooConfig, out: Path) -> dict[str, Baseline]:
    """What delta_m is measured against, by task."""
    from degmix_training.checkpoint import read_card

    return {
        task: Baseline(score.value, name)
        for name in zoo.references()
        for task, score in read_card(_best(out, name)).scores.items()
    }


def _compare_with(row: ZooRow, baselines: Mapping[str, Baseline]) -> None:
    """Fill in the row's delta_m, or a remark why it has none."""
    from degmix_training.delta_m import delta_m

    values_of = {task: (baseline.value, baseline.of) for task, baseline in baselines.items()}
    metric_of = {task: tasks.find(task).metric for task in row.values}
    for precision, values in (("fp32", row.values), ("int8", row.int8)):
        usable = {t: v for t, v in values.items() if v == v}
        try:
            row.delta_m[precision] = delta_m(usable, values_of, metric_of).delta_m
        except ConfigError as error:  # a task whose baseline is 0 or no number
            row.remarks.append(f"no delta_m: {error}")
            return


def _gallery(result: ZooResult) -> Gallery:
    """The labels of a few validation samples beside the maps of every network's INT8 engine."""
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.report.gallery import Gallery
    from degmix_edge.runtime import load
    from degmix_edge.workflows.compare_report import labelled_panel
    from degmix_edge.workflows.zoo.score import held_out_images

    items = held_out_images(result.zoo, result.networks[0].name, SHOWN)
    with ExitStack() as stack:
        sessions = {
            row.name: stack.enter_context(
                load(open_bundle(result.out / row.name / "int8.degmix"), backend="onnxruntime")
            )
            for row in result.networks
        }
        return Gallery(labelled_panel(item, sessions) for item in items)


def _time(
    zoo: ZooConfig, out: Path, rows: Sequence[ZooRow], backend: str, calls: int
) -> dict[str, Result]:
    """Time all engines in one alternating run, so that a slow moment hits them all."""
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.runtime import load
    from degmix_edge.workflows.bench import bench_sessions
    from degmix_edge.workflows.sources import images

    fit = Fit(height=zoo.train.height, width=zoo.train.width)
    pictures = [item.image for item in images(BENCH_IMAGES, fit)]
    with ExitStack() as stack:
        sessions = {
            f"{row.name} {precision}": stack.enter_context(
                load(open_bundle(out / row.name / f"{precision}.degmix"), backend=backend)
            )
            for row in rows
            for precision in PRECISIONS
        }
        with counting(f"bench {backend}", calls * len(sessions)) as advance:
            results = bench_sessions(sessions, pictures, calls=calls, warmup=3, advance=advance)
    for row in rows:
        row.latency_ms[backend] = {p: results[f"{row.name} {p}"].median_net_ms for p in PRECISIONS}
    return results
