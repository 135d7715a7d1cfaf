"""A zoo from its settings to its report.

Everything that takes long leaves files in `OUT/NAME/`, and is not done again while what it was made
of is the same: `run/` (the training, resumed from its last validation), two bundles, `row.json`,
`also.json`. Of seeds beside that of the zoo's settings, it is `OUT/NAME/seed-N/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge import tasks
from degmix_edge.errors import ConfigError
from degmix_edge.files import make_folder
from degmix_edge.preprocess import Fit
from degmix_edge.progress import Progress, counting, note
from degmix_edge.workflows.zoo.plan import Seeds, check_given, claim_folder, load_zoo
from degmix_edge.workflows.zoo.result import PRECISIONS, Baseline, ZooResult, ZooRow
from degmix_edge.workflows.zoo.seeds import baselines_over_seeds, over_seeds
from degmix_edge.workflows.zoo.train import stopped_step, train_networks
from degmix_edge.workflows.zoo.trials import Cluster, train_on_ray

if TYPE_CHECKING:
    from degmix_training.processes import Machine
    from degmix_training.zoo import ZooConfig

    from degmix_edge.report.gallery import Gallery
    from degmix_edge.workflows.bench import Result

BENCH_IMAGES = "synthetic:4"
SHOWN = 4
"""Validation samples whose maps are on the page."""


@dataclass(frozen=True)
class _How:
    """How trained networks are built and timed: the arguments of `zoo`."""

    backends: Sequence[str]
    calls: int
    calibration_count: int


def zoo(
    name: str | Path = "smoke",
    out: str | Path = Path("runs/zoo"),
    *,
    models: Sequence[str] = (),
    checkpoints: Mapping[str, str | Path] | None = None,
    overrides: Sequence[str] = (),
    data: str | None = None,
    seeds: Seeds | None = None,
    backends: Sequence[str] = ("onnxruntime",),
    calibration_count: int = 32,
    calls: int = 30,
    force: bool = False,
    machine: Machine | None = None,
    workers: int = 1,
    address: str | None = None,
    asha: bool = False,
    progress: Progress | None = None,
) -> ZooResult:
    """Train networks the same way, export, quantize and time them, and compare them in one table.

    `out` gets zoo.html, zoo.csv, zoo.json and zoo.png. The function is resumable: what is finished
    there is not done again, and a training restarts from its last validation.

    Args:
        name: The name of a zoo, or a path to a YAML file.
        out: The folder.
        models: Entries to compare; empty compares all of the zoo.
        checkpoints: Checkpoints that take the place of a training, by entry.
        overrides: Changes of settings, as in `train.steps=100`.
        data: A data set and its folder, as in `nyud:NYUDv2`; None is that of the zoo.
        seeds: How many, counting up from `train.seed`, or which; None are those of the zoo.
        backends: Names of the backends to time.
        calibration_count: Training images to calibrate INT8 with.
        calls: Calls that are timed, for each network and precision.
        force: Start anew in an `out` that holds a zoo of other settings.
        machine: What each training runs on; None is one process on the best accelerator.
        workers: Trainings at a time; more than one are trials of Ray Tune, with the same result.
        address: A Ray cluster that trains, as `label` takes it, whose machines share `out`.
        asha: Let ASHA end trainings early that are behind; the tables say which.
        progress: Gets events.

    Raises:
        ConfigError: There is no such zoo, entry or backend, or a setting does not fit.
        CheckpointError: A checkpoint is missing, damaged, or not one of its entry.
        OutputError: `out` holds a zoo of other settings, or cannot be written.
        DegmixError: A network cannot be trained, built or run.
    """
    from degmix_training.processes import first_listening

    from degmix_edge.backends import choose

    on = Cluster(workers, address, asha)
    with first_listening(progress):
        settings = load_zoo(name, models, overrides, data, seeds)
        for backend in backends:
            choose(backend, to_build=True)
        given, out = check_given(settings, checkpoints or {}), Path(out)
        _train(settings, out, given, on, machine=machine, force=force)
        return _compared(settings, out, given, _How(backends, calls, calibration_count))


def _train(
    zoo: ZooConfig,
    out: Path,
    given: Mapping[str, Path],
    on: Cluster,
    *,
    machine: Machine | None,
    force: bool,
) -> None:
    """Train what is not given, one network after the other or several on Ray."""
    from degmix_training.processes import Machine, is_first_process

    make_folder(out)
    if is_first_process():
        claim_folder(zoo, out, force=force)
    runs = {n: s for n, s in zoo.trainings().items() if n not in given}
    if on.is_wanted:
        references = [zoo.run_name(n, seed) for seed in zoo.all_seeds for n in zoo.references()]
        train_on_ray(runs, out, on, references=references, machine=machine or Machine())
    else:
        train_networks(runs, out, machine)


def _compared(zoo: ZooConfig, out: Path, given: Mapping[str, Path], how: _How) -> ZooResult:
    """Build, score and time the networks, compare them with each other, and write the files."""
    from degmix_training.processes import is_first_process

    from degmix_edge.workflows.bench import machine
    from degmix_edge.workflows.engine import versions
    from degmix_edge.workflows.zoo.report import write_zoo

    if not is_first_process():
        return ZooResult(zoo, out)
    rows = _rows(zoo, out, given, how.calibration_count)
    baselines = {seed: _baselines(zoo, out, seed) for seed in zoo.all_seeds}
    also = {
        source: {seed: _baselines_on(zoo, out, seed, source) for seed in zoo.all_seeds}
        for source in zoo.also
    }
    for row in rows:
        (seed,) = row.seeds
        _compare_with(row, baselines[seed], {s: of[seed] for s, of in also.items()})
    trainings = {name: [row for row in rows if row.name == name] for name in zoo.entries}
    networks = sorted(map(over_seeds, trainings.values()), key=lambda row: -row.rank)
    result = ZooResult(
        zoo,
        out,
        tuple(networks),
        tuple(row for network in networks for row in trainings[network.name]),
        baselines_over_seeds(baselines),
        {source: baselines_over_seeds(of) for source, of in also.items()},
        {backend: _time(zoo, out, networks, backend, how.calls) for backend in how.backends},
        machine(),
        versions(),
    )
    write_zoo(result, _gallery(result))
    return result


def _rows(
    zoo: ZooConfig, out: Path, given: Mapping[str, Path], calibration_count: int
) -> list[ZooRow]:
    """Build and score every network of every seed."""
    from degmix_edge.workflows.zoo.score import score_elsewhere, score_network

    rows = []
    todo = [(entry, seed) for seed in zoo.all_seeds for entry in zoo.entries]
    for index, (entry, seed) in enumerate(todo):
        name = zoo.run_name(entry, seed)
        note(f"{name}: build and score, {index + 1} of {len(todo)}")
        path = given.get(name) or _best(out, name)
        row = score_network(zoo, entry, path, out / name, calibration_count)
        steps = zoo.settings(entry).steps
        row.seeds, row.stopped_at = (seed,), stopped_step(out / name, steps)
        if row.stopped_at:
            row.remarks.append(f"ASHA stopped it at step {row.stopped_at} of {steps}")
        row.also = score_elsewhere(path, out / name, zoo.also)
        rows.append(row)
    return rows


def _best(out: Path, name: str) -> Path:
    return out / name / "run" / "best.safetensors"


def _baselines(zoo: ZooConfig, out: Path, seed: int) -> dict[str, Baseline]:
    """What delta_m of a seed is measured against, by task."""
    from degmix_training.checkpoint import read_card

    return {
        task: Baseline(score.value, name, seeds=(seed,))
        for name in zoo.references()
        for task, score in read_card(_best(out, zoo.run_name(name, seed))).scores.items()
    }


def _baselines_on(zoo: ZooConfig, out: Path, seed: int, source: str) -> dict[str, Baseline]:
    """The same on a data set beside the zoo's own."""
    from degmix_edge.workflows.zoo.score import score_elsewhere

    baselines: dict[str, Baseline] = {}
    for name in zoo.references():
        run = zoo.run_name(name, seed)
        found = score_elsewhere(_best(out, run), out / run, zoo.also)[source]
        baselines |= {task: Baseline(v, name, seeds=(seed,)) for task, v in found.values.items()}
    return baselines


def _compare_with(
    row: ZooRow,
    baselines: Mapping[str, Baseline],
    elsewhere: Mapping[str, Mapping[str, Baseline]],
) -> None:
    """Fill in the row's delta_m, here and on other data sets, or a remark why it has none."""
    for place, form, values, gains, against in (
        ("", "fp32", row.values, row.delta_m, baselines),
        ("", "int8", row.int8, row.delta_m, baselines),
        *(
            (f" on {source}", "fp32", one.values, one.delta_m, elsewhere[source])
            for source, one in row.also.items()
        ),
    ):
        try:
            gains[form] = _gain(values, against)
        except ConfigError as error:  # a task whose baseline is 0 or no number
            remark = f"no delta_m{place}: {error}"
            if remark not in row.remarks:
                row.remarks.append(remark)


def _gain(values: Mapping[str, float], baselines: Mapping[str, Baseline]) -> float:
    """The delta_m of the tasks that have a value, in percent."""
    from degmix_training.delta_m import delta_m

    found = delta_m(
        {task: value for task, value in values.items() if value == value},
        {task: (baseline.value, baseline.of) for task, baseline in baselines.items()},
        {task: tasks.find(task).metric for task in values},
    )
    return float(found.delta_m)


def _gallery(result: ZooResult) -> Gallery:
    """The labels of a few validation samples beside the maps of every network's INT8 engine.

    A network with several seeds shows its first one.
    """
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.report.gallery import Gallery
    from degmix_edge.runtime import load
    from degmix_edge.workflows.compare_report import labelled_panel
    from degmix_edge.workflows.zoo.score import held_out_images

    items = held_out_images(result.zoo, result.networks[0].name, SHOWN)
    folders = {row.name: _folder(result.zoo, result.out, row) for row in result.networks}
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(
                load(open_bundle(folder / "int8.degmix"), backend="onnxruntime")
            )
            for name, folder in folders.items()
        }
        return Gallery(labelled_panel(item, sessions) for item in items)


def _folder(zoo: ZooConfig, out: Path, row: ZooRow) -> Path:
    """The folder of a network's first seed."""
    name: str = zoo.run_name(row.name, row.seeds[0])
    return out / name


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
                load(open_bundle(_folder(zoo, out, row) / f"{precision}.degmix"), backend=backend)
            )
            for row in rows
            for precision in PRECISIONS
        }
        with counting(f"bench {backend}", calls * len(sessions)) as advance:
            results = bench_sessions(sessions, pictures, calls=calls, warmup=3, advance=advance)
    for row in rows:
        row.latency_ms[backend] = {p: results[f"{row.name} {p}"].median_net_ms for p in PRECISIONS}
    return results
