"""What `zoo` does: train all, then build, score and time each, then write the table.

Everything that takes long leaves a file in `OUT/NAME/`, and is not done again while what it was
made of is the same: `run/` (training, resumed from its last epoch), two bundles, `row.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import __version__, config
from degmix_edge.cli._files import make_folder, write_file
from degmix_edge.cli._output import Output, plain
from degmix_edge.cli._zoo_train import train
from degmix_edge.errors import CheckpointError, ConfigError, InputError, OutputError

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint
    from degmix_training.config import TrainConfig
    from degmix_training.zoo import ZooConfig

    from degmix_edge.bundle import Bundle
    from degmix_edge.cli._sources import NamedImage

PRECISIONS = ("fp32", "int8")
MAX_DROP = 0.02
SENSITIVITY_IMAGES = 8
"""To find the layer that costs a task too much."""
STANDS_OUT = 15.0
"""Percent of all layers' harm to a task."""
FLIP_IMAGES = 8


@dataclass
class Network:
    """One row of the table.

    Attributes:
        backbone: By timm name.
        gmac: Of the trained network, and of its graph after folds and passes, in each precision.
        values, int8: By task: the metric on the validation split, of PyTorch FP32 and the INT8
            engine.
        drop: By task: how much worse INT8 is, as a fraction.
        delta_m: Percent, by precision; None where there is nothing to compare with.
        size_bytes: Of the bundle, by precision.
        latency_ms: Median of one engine call, by backend and precision.
        flips: Of expert choices, `router` and `total`; see `routing.Flips`.
        remarks: What a reader must know: a task that INT8 hurts and the layer that does it.
    """

    name: str
    model: str
    backbone: str
    params: int
    step: int
    gmac: dict[str, float]
    values: dict[str, float]
    int8: dict[str, float]
    drop: dict[str, float]
    size_bytes: dict[str, int]
    flips: dict[str, float]
    remarks: list[str] = field(default_factory=list)
    delta_m: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)


def run(
    output: Output,
    name: str,
    *,
    models: str | None,
    checkpoints: Sequence[str],
    out: Path,
    overrides: Sequence[str],
    data: str | None,
    backend: str,
    calib_count: int,
    calls: int,
    force: bool,
    **machine: Any,
) -> dict[str, Any]:
    """All of it; see the verb."""
    from degmix_training.fit import is_first_process

    from degmix_edge import backends
    from degmix_edge.cli._zoo_report import write

    zoo = _zoo(name, models, overrides, data)
    for backend_name in backend.split(","):
        backends.choose(backend_name, to_build=True)
    given = _given(zoo, checkpoints)
    make_folder(out)
    if is_first_process():
        _claim(zoo, out, force)
    runs = {n: s for n, s in {**zoo.references(), **_settings(zoo)}.items() if n not in given}
    train(output, out, runs, machine)
    if not is_first_process():
        return {}
    found = {n: given.get(n) or out / n / "run" / "best.safetensors" for n in zoo.entries}
    networks = []
    for index, (entry, path) in enumerate(found.items()):
        output.say(f"{entry}: build and score, {index + 1} of {len(found)}")
        networks.append(_network(output, zoo, entry, path, out / entry, calib_count))
    baselines = _baselines(zoo, out)
    for network in networks:
        _gain(zoo, network, baselines)
    latencies = _bench(output, zoo, networks, out, backend, calls)
    return write(output, zoo, networks, baselines, latencies, out)


def _zoo(name: str, models: str | None, overrides: Sequence[str], data: str | None) -> ZooConfig:
    from degmix_training.zoo import ZooConfig, zoo

    changes = list(overrides)
    if data:
        kind, _, root = data.partition(":")
        changes += [f"train.data.name={kind}", f"train.data.root={root or 'null'}"]
        if kind != "synthetic" and not any(c.startswith("train.data.train=") for c in changes):
            changes += ["train.data.train=null", "train.data.val=null"]
    loaded: ZooConfig = config.load(ZooConfig, zoo(name), changes)
    chosen = loaded.choose([part.strip() for part in (models or "").split(",") if part.strip()])
    for settings in (*chosen.references().values(), *_settings(chosen).values()):
        settings.task_specs()
        _try_to_make(settings)
    return chosen


def _settings(zoo: ZooConfig) -> dict[str, TrainConfig]:
    return {name: zoo.settings(name) for name in zoo.entries}


def _try_to_make(settings: TrainConfig) -> None:
    """What a network cannot be made of is said before the first one trains."""
    import torch
    from degmix_training import models
    from degmix_training.config import network_config

    size = (settings.height, settings.width)
    with torch.device("meta"):
        made = network_config(settings.model, settings.network, size)
        models.find(settings.model).Model(made, settings.task_specs())


def _given(zoo: ZooConfig, checkpoints: Sequence[str]) -> dict[str, Path]:
    """Checkpoints to take, by entry.

    Raises:
        ConfigError, CheckpointError: No such entry; a checkpoint of another model, size or tasks.
    """
    from degmix_training.checkpoint import locate, read_card

    from degmix_edge.registry import unknown

    found = {}
    for text in checkpoints:
        name, separator, file = text.partition("=")
        if not separator or not file:
            raise ConfigError(f"--checkpoint {text}: expected NAME=FILE")
        if name not in zoo.entries:
            raise ConfigError("--checkpoint: " + unknown("zoo entry", name, zoo.entries))
        path = locate(file)
        card, want = read_card(path), zoo.settings(name)
        for what, got, expected in (
            ("model", card.model, want.model),
            ("size", f"{card.height}x{card.width}", f"{want.height}x{want.width}"),
            ("tasks", [t.name for t in card.tasks], list(want.tasks)),
            ("data set", card.config.data.name, want.data.name),
        ):
            if got != expected:
                raise CheckpointError(
                    f"--checkpoint {name}: {path} is of {what} {got}, entry {name!r} has "
                    f"{expected}; give the checkpoint of that entry, or leave it out to train one"
                )
        found[name] = path
    return found


def _claim(zoo: ZooConfig, out: Path, force: bool) -> None:
    """Note the settings in OUT; refuse one of other settings.

    Raises:
        OutputError: It holds another zoo.
    """
    path, text = out / "zoo.yaml", config.dump(zoo)
    if path.exists() and not force:
        before = config.load(type(zoo), path)
        shared = {"backbone", "reference", "train", "baseline"}
        now, then = (z.model_dump(mode="json", include=shared) for z in (zoo, before))
        changed = [key for key in shared if now[key] != then[key]]
        changed += [
            n for n, e in zoo.entries.items() if n in before.entries and before.entries[n] != e
        ]
        if changed:
            raise OutputError(
                f"{out}: holds a zoo with other settings ({', '.join(sorted(changed))}): networks "
                f"would not be comparable; give another --out, or --force to start anew"
            )
        known = {**before.entries, **zoo.entries}
        text = config.dump(zoo.model_copy(update={"entries": known}))
    if force and path.exists():
        import shutil

        for folder in out.iterdir():
            if (folder / "run").is_dir():
                shutil.rmtree(folder)
    write_file(path, text.encode(), force=True)


def _network(
    output: Output, zoo: ZooConfig, name: str, path: Path, folder: Path, calib_count: int
) -> Network:
    """Build, score and compare one entry, or read what was found before."""
    from degmix_training.checkpoint import load

    make_folder(folder)
    row = folder / "row.json"
    key = hashlib.sha256(f"{path.read_bytes()!r} {calib_count} {__version__}".encode()).hexdigest()
    if row.exists():
        saved = json.loads(row.read_text())
        if saved["key"] == key and all((folder / f"{p}.degmix").exists() for p in PRECISIONS):
            return Network(**saved["network"])
    checkpoint = load(path)
    network = _measure(output, zoo, name, checkpoint, folder, calib_count)
    text = json.dumps({"key": key, "network": asdict(network)}, indent=1, default=plain)
    write_file(row, text.encode(), force=True)
    return network


def _measure(
    output: Output,
    zoo: ZooConfig,
    name: str,
    checkpoint: Checkpoint,
    folder: Path,
    calib_count: int,
) -> Network:
    from degmix_training.cost import count
    from degmix_training.export import export, network_spec

    from degmix_edge.build import Options, build, deploy, quantize, recipe_and_ranges
    from degmix_edge.cli._quantizing import OBSERVER, calibrator
    from degmix_edge.graph_cost import costs, total_macs
    from degmix_edge.preprocess import Fit
    from degmix_edge.routing import selection_flips

    settings = zoo.settings(name)
    with output.working(f"{name}: export"):
        model, spec = export(checkpoint), network_spec(checkpoint)
    fit = Fit(height=spec.height, width=spec.width)
    images = _samples(settings, "train", calib_count)
    held_out = _samples(settings, "val", settings.data.val)
    bundles, graphs = {}, {}
    for precision in PRECISIONS:
        bundles[precision] = build(
            model,
            spec,
            folder / f"{precision}.degmix",
            Options(precision=precision),  # type: ignore[arg-type]
            golden_image=images[0].fitted(fit),
            calibrate=calibrator(output, images, fit, {"observer": OBSERVER}),
            observer=OBSERVER,
            force=True,
        )
        graphs[precision], _, _ = deploy(model, spec, Options(precision=precision))  # type: ignore[arg-type]
    comparison = _compare(output, bundles["int8"], checkpoint, held_out)
    whole = count(checkpoint.network, spec.height, spec.width)
    network = Network(
        name=name,
        model=spec.model,
        backbone=zoo.backbone_of(name),
        params=whole.params,
        step=checkpoint.card.step,
        gmac={"trained": whole.macs / 1e9}
        | {p: total_macs(costs(graph)) / 1e9 for p, graph in graphs.items()},
        values={task: s.value for task, s in checkpoint.card.scores.items()},
        int8={t.task: t.value for t in comparison.tasks if t.value is not None},
        drop={t.task: t.drop for t in comparison.tasks if t.drop is not None},
        size_bytes={p: b.size_bytes for p, b in bundles.items()},
        flips={},
    )
    recipe, ranges = recipe_and_ranges(bundles["int8"])
    final = quantize(graphs["int8"], recipe, ranges, spec)
    pixels = [item.fitted(fit) for item in held_out[:FLIP_IMAGES]]
    flips = selection_flips(graphs["int8"], final, pixels)
    if flips.mixtures:
        network.flips = {"router": flips.router, "total": flips.total}
    bad = [task for task, drop in network.drop.items() if not drop <= MAX_DROP]
    if bad:
        culprits = _culprits(
            output, graphs["int8"], spec, recipe, ranges, held_out, network.values, bad
        )
        network.remarks += [
            f"INT8 makes {task} {100 * network.drop[task]:.1f} % worse; {culprits[task]}"
            for task in bad
        ]
    return network


def _samples(settings: TrainConfig, split: str, count: int | None) -> list[NamedImage]:
    """Of the zoo's data set, at the network's size as evaluation has them."""
    from degmix_training.data._augment import place

    from degmix_edge.cli._sources import NamedImage

    size = (settings.height, settings.width)
    samples = settings.open_data().open_split(split, settings.tasks, count)
    if not len(samples):
        raise InputError(f"data set {settings.data.name!r}: no samples in its {split} split")
    placed = [place(samples[index], size) for index in range(len(samples))]
    return [NamedImage(s.name, s.image, s.labels) for s in placed]


def _compare(
    output: Output, bundle: Bundle, checkpoint: Checkpoint, held_out: Sequence[NamedImage]
) -> Any:
    from degmix_edge.backends.torch_eager import Backend
    from degmix_edge.compare import compare
    from degmix_edge.runtime import Session, load

    reference = Session(Backend(bundle.manifest.network, checkpoint.network), bundle.manifest.fit)
    with load(bundle, backend="onnxruntime") as session, reference:
        with output.progress("compare", len(held_out)) as advance:
            pairs = ((item.image, item.labels) for item in held_out)
            return compare(session, reference, pairs, max_drop=MAX_DROP, advance=advance)


def _culprits(
    output: Output,
    graph: Any,
    spec: Any,
    recipe: Any,
    ranges: Any,
    held_out: Sequence[NamedImage],
    floats: dict[str, float],
    tasks: Sequence[str],
) -> dict[str, str]:
    """Of each task the layer whose INT8 alone moves its map most, in words."""
    from degmix_calibration.sensitivity import layers, measure
    from degmix_calibration.trial import Example, Trials

    from degmix_edge.graph_cost import costs
    from degmix_edge.preprocess import Fit, fit_image

    fit = Fit(height=spec.height, width=spec.width)
    examples = []
    for item in held_out[:SENSITIVITY_IMAGES]:
        pixels, placement = fit_image(item.image, fit)
        examples.append(Example(item.name, pixels, placement, item.labels))
    trials = Trials(graph, spec, ranges, examples)
    found = layers(recipe, {cost.node: cost.macs for cost in costs(graph)}, {})
    with output.progress("find the layer", len(found)) as advance:
        measured = measure(trials, recipe, found, advance=advance)
    words = {}
    for task in tasks:
        layer = max(measured, key=lambda name: measured[name][task].distance)
        alone = sum(damage[task].distance for damage in measured.values())
        share = 100 * measured[layer][task].distance / (alone or 1)
        of_all = f"of what all {len(found)} layers, each alone, move its map"
        words[task] = (
            f"layer {layer} makes {share:.0f} % {of_all}: keep it float (--keep-float)"
            if share >= STANDS_OUT
            else f"no layer stands out: the largest, {layer}, makes {share:.0f} % {of_all}; "
            f"a float value of {floats[task]:.3g} is moved by rounding alone"
        )
    return words


def _baselines(zoo: ZooConfig, out: Path) -> dict[str, tuple[float, str]]:
    """By task: what delta_m is measured against."""
    from degmix_training.checkpoint import read_card

    found = {}
    for name in zoo.references():
        card = read_card(out / name / "run" / "best.safetensors")
        for task, score in card.scores.items():
            found[task] = (score.value, name)
    return found


def _gain(zoo: ZooConfig, network: Network, baselines: dict[str, tuple[float, str]]) -> None:
    from degmix_training.delta_m import delta_m

    from degmix_edge import tasks

    kind = {task: tasks.find(task).metric for task in network.values}
    for precision, values in (("fp32", network.values), ("int8", network.int8)):
        usable = {t: v for t, v in values.items() if v == v}
        try:
            network.delta_m[precision] = delta_m(usable, baselines, kind).delta_m
        except ConfigError as error:  # a task whose baseline is 0 or no number
            network.remarks.append(f"no delta_m: {error}")
            return


def _bench(
    output: Output, zoo: ZooConfig, networks: Sequence[Network], out: Path, names: str, calls: int
) -> dict[str, Any]:
    """All engines in one alternating run, so that a slow moment of the machine hits them alike."""
    from degmix_edge.bench import bench
    from degmix_edge.bundle import open_bundle
    from degmix_edge.cli._sources import images
    from degmix_edge.preprocess import Fit
    from degmix_edge.runtime import load

    fit = Fit(height=zoo.train.height, width=zoo.train.width)
    pictures = [item.image for item in images("synthetic:4", fit)]
    results: dict[str, Any] = {}
    for backend in names.split(","):
        with ExitStack() as stack:
            sessions = {
                f"{network.name} {precision}": stack.enter_context(
                    load(open_bundle(out / network.name / f"{precision}.degmix"), backend=backend)
                )
                for network in networks
                for precision in PRECISIONS
            }
            with output.progress(f"bench {backend}", calls * len(sessions)) as advance:
                found = bench(sessions, pictures, calls=calls, warmup=3, advance=advance)
        for network in networks:
            network.latency_ms[backend] = {
                p: found[f"{network.name} {p}"].median_net_ms for p in PRECISIONS
            }
        results[backend] = found
    return results
