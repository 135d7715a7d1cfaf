"""One network of a zoo: its bundles, what it scores in FP32 and INT8, and why INT8 hurts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import __version__
from degmix_edge.cli._files import make_folder, write_file
from degmix_edge.cli._output import Output, plain
from degmix_edge.errors import InputError

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


def score_network(
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
    from degmix_edge.cli._sources import as_images
    from degmix_edge.preprocess import Fit

    samples = settings.open_data().open_split(split, settings.tasks, count)
    if not len(samples):
        raise InputError(f"data set {settings.data.name!r}: no samples in its {split} split")
    return as_images(samples, Fit(height=settings.height, width=settings.width), settings.tasks)


def _compare(
    output: Output, bundle: Bundle, checkpoint: Checkpoint, held_out: Sequence[NamedImage]
) -> Any:
    from degmix_edge.backends.torch_eager import Backend
    from degmix_edge.compare import compare
    from degmix_edge.runtime import Session, load

    reference = Session(Backend(bundle.manifest.network, checkpoint.network), bundle.manifest.fit)
    with load(bundle, backend="onnxruntime") as session, reference:
        with output.progress("compare", len(held_out)) as advance:
            pairs = (item.load() for item in held_out)
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
    from degmix_edge.preprocess import Fit

    fit = Fit(height=spec.height, width=spec.width)
    few = held_out[:SENSITIVITY_IMAGES]
    examples = [Example.of(item.name, *item.load(), fit) for item in few]
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
