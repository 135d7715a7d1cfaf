"""One network of a zoo: its bundles, its scores in FP32 and INT8, and why INT8 hurts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge import __version__
from degmix_edge.bundle.contents import Bundle, recipe_and_ranges
from degmix_edge.errors import InputError
from degmix_edge.files import make_folder, sha256, write_file
from degmix_edge.preprocess import Fit
from degmix_edge.progress import counting, working
from degmix_edge.report.values import json_text
from degmix_edge.workflows.build import build
from degmix_edge.workflows.sources import NamedImage, as_images
from degmix_edge.workflows.zoo.result import MAX_DROP, PRECISIONS, Elsewhere, ZooRow

if TYPE_CHECKING:
    import onnx
    from degmix_calibration.sensitivity import Sensitivity
    from degmix_training.checkpoint import Checkpoint
    from degmix_training.config import TrainConfig
    from degmix_training.zoo import ZooConfig

    from degmix_edge.network import NetworkSpec
    from degmix_edge.workflows.comparison import Comparison

OBSERVER = "mse"
SENSITIVITY_IMAGES = 8
"""Images on which the layer that costs a task too much is looked for."""
STANDS_OUT = 15.0
"""Percent of all layers' harm to a task from which one layer is named as the cause."""
FLIP_IMAGES = 8


@dataclass(frozen=True)
class _Forms:
    """What a checkpoint becomes.

    Attributes:
        spec: What the network promises.
        bundles: By precision.
        graphs: The deployed float graph that each bundle was made of, by precision.
    """

    spec: NetworkSpec
    bundles: dict[str, Bundle]
    graphs: dict[str, onnx.ModelProto]


def score_network(
    zoo: ZooConfig, name: str, path: Path, folder: Path, calibration_count: int
) -> ZooRow:
    """Build, score and compare one network, or read its row from an earlier run.

    Args:
        zoo: The settings.
        name: The entry.
        path: Its checkpoint.
        folder: Gets both bundles and `row.json`.
        calibration_count: Training images to calibrate INT8 with.

    Raises:
        InputError: The data set has no samples.
        BuildError: A bundle cannot be built.
    """
    from degmix_training.checkpoint import load

    make_folder(folder)
    row = folder / "row.json"
    key = sha256(f"{sha256(path.read_bytes())} {calibration_count} {__version__}".encode())
    if row.exists() and all((folder / f"{p}.degmix").exists() for p in PRECISIONS):
        saved = json.loads(row.read_text())
        if saved["key"] == key:
            return ZooRow(**saved["network"])
    network = _measure(zoo, name, load(path), folder, calibration_count)
    text = json_text({"key": key, "network": asdict(network)})
    write_file(row, text.encode(), force=True)
    return network


def score_elsewhere(path: Path, folder: Path, sources: Sequence[str]) -> dict[str, Elsewhere]:
    """Score a float checkpoint on data sets beside the zoo's own, or read an earlier run's scores.

    Args:
        path: The checkpoint.
        folder: Gets `also.json`.
        sources: Labelled data sets, as `evaluate` takes them.

    Raises:
        ConfigError: The classes of network and data set differ.
        InputError: A data set cannot be read.
    """
    from degmix_edge.workflows.evaluate import evaluate

    file, saved = folder / "also.json", {}
    key = sha256(f"{sha256(path.read_bytes())} {__version__}".encode())
    if file.exists() and (text := json.loads(file.read_text()))["key"] == key:
        saved = {source: Elsewhere(**values) for source, values in text["scores"].items()}
    for source in sources:
        if source in saved:
            continue
        found = evaluate(path, data=source)
        values = {task: score.value for task, score in found.scores.items()}
        saved[source] = Elsewhere(found.images, values, dict(found.calibration))
        whole = json_text({"key": key, "scores": saved})
        write_file(file, whole.encode(), force=True)
    return {source: saved[source] for source in sources}


def _measure(
    zoo: ZooConfig, name: str, checkpoint: Checkpoint, folder: Path, calibration_count: int
) -> ZooRow:
    from degmix_training.cost import count
    from degmix_training.export import export_checkpoint, network_spec

    from degmix_edge.graph.cost import costs, total_macs

    settings = zoo.settings(name)
    images = _samples(settings, "train", calibration_count)
    held_out = _samples(settings, "val", settings.data.val)
    with working(f"{name}: export"):
        model = export_checkpoint(checkpoint)
    forms = _forms(model, network_spec(checkpoint), folder, images)
    comparison = _compare(forms.bundles["int8"], checkpoint, held_out)
    whole = count(checkpoint.network, forms.spec.height, forms.spec.width)
    tasks = comparison.tasks.items()
    row = ZooRow(
        name=name,
        model=forms.spec.model,
        backbone=zoo.backbone_of(name),
        params=whole.params,
        step=checkpoint.card.step,
        gmac={"trained": whole.macs / 1e9}
        | {p: total_macs(costs(graph)) / 1e9 for p, graph in forms.graphs.items()},
        values={task: s.value for task, s in checkpoint.card.scores.items()},
        int8={task: t.value for task, t in tasks if t.value is not None},
        drop={task: t.drop for task, t in tasks if t.drop is not None},
        size_bytes={p: bundle.size_bytes for p, bundle in forms.bundles.items()},
        flips=_flips(forms, held_out[:FLIP_IMAGES]),
    )
    row.remarks += _remarks(row, forms, held_out[:SENSITIVITY_IMAGES])
    return row


def held_out_images(zoo: ZooConfig, name: str, count: int) -> list[NamedImage]:
    """Return the first validation samples with their labels, as the entry `name` is scored on."""
    return _samples(zoo.settings(name), "val", count)


def _samples(settings: TrainConfig, split: str, count: int | None) -> list[NamedImage]:
    """Samples of the zoo's data set, at the network's size as evaluation has them."""
    samples = settings.open_data().open_split(split, settings.tasks, count)
    if not len(samples):
        raise InputError(f"data set {settings.data.name!r}: no samples in its {split} split")
    return as_images(samples, Fit(height=settings.height, width=settings.width), settings.tasks)


def _forms(
    model: onnx.ModelProto, spec: NetworkSpec, folder: Path, images: Sequence[NamedImage]
) -> _Forms:
    from degmix_edge.passes.forms import deploy_model

    bundles, graphs = {}, {}
    for precision in PRECISIONS:
        bundles[precision] = build(
            model,
            folder / f"{precision}.degmix",
            precision=precision,
            calibration=images,
            observer=OBSERVER,
            force=True,
        )
        graphs[precision], _, _ = deploy_model(model, spec, precision=precision)  # type: ignore[arg-type]
    return _Forms(spec, bundles, graphs)


def _compare(bundle: Bundle, checkpoint: Checkpoint, held_out: Sequence[NamedImage]) -> Comparison:
    from degmix_edge.backends.torch_eager import Backend
    from degmix_edge.runtime import Session, load
    from degmix_edge.workflows.comparison import compare_sessions

    reference = Session(Backend(bundle.manifest.network, checkpoint.network), bundle.manifest.fit)
    with load(bundle, backend="onnxruntime") as session, reference:
        with counting("compare", len(held_out)) as advance:
            pairs = (item.load() for item in held_out)
            return compare_sessions(session, reference, pairs, max_drop=MAX_DROP, advance=advance)


def _flips(forms: _Forms, images: Sequence[NamedImage]) -> dict[str, float]:
    """Shares of the expert choices that differ in INT8; empty where there are no experts."""
    from degmix_edge.graph.routing import selection_flips
    from degmix_edge.passes.forms import quantize_model

    fit = forms.bundles["int8"].manifest.fit
    recipe, ranges = recipe_and_ranges(forms.bundles["int8"])
    final = quantize_model(forms.graphs["int8"], recipe, ranges, forms.spec)
    feeds = [item.feed(fit, forms.spec) for item in images]
    flips = selection_flips(forms.graphs["int8"], final, feeds)
    return {"router": flips.router, "total": flips.total} if flips.mixtures else {}


def _remarks(row: ZooRow, forms: _Forms, images: Sequence[NamedImage]) -> list[str]:
    """A remark for each task that INT8 makes too much worse, with the layer that does it."""
    bad = [task for task, drop in row.drop.items() if not drop <= MAX_DROP]
    if not bad:
        return []
    sensitivity = _sensitivity(forms, images)
    return [
        f"INT8 makes {task} {100 * row.drop[task]:.1f} % worse; "
        + _cause(task, sensitivity, row.values[task])
        for task in bad
    ]


def _sensitivity(forms: _Forms, images: Sequence[NamedImage]) -> Sensitivity:
    """How far each layer's INT8 alone moves each task's map."""
    from degmix_calibration.sensitivity import layers, measure
    from degmix_calibration.trial import Example, Trials

    from degmix_edge.graph.cost import costs

    graph, fit = forms.graphs["int8"], forms.bundles["int8"].manifest.fit
    recipe, ranges = recipe_and_ranges(forms.bundles["int8"])
    assert ranges is not None  # of an INT8 bundle
    examples = [Example.of(item.name, *item.load(), fit, forms.spec) for item in images]
    trials = Trials(graph, forms.spec, ranges, examples)
    candidates = layers(recipe, {cost.node: cost.macs for cost in costs(graph)}, {})
    with counting("find the layer", len(candidates)) as advance:
        return measure(trials, recipe, candidates, advance=advance)


def _cause(task: str, sensitivity: Sensitivity, value: float) -> str:
    """The layer whose INT8 alone moves the task's map most, in words."""
    distances = {n: damage[task].distance for n, damage in sensitivity.items()}
    layer = max(distances, key=lambda name: distances[name])
    share = 100 * distances[layer] / (sum(distances.values()) or 1)
    of_all = f"of what all {len(distances)} layers, each alone, move its map"
    if share >= STANDS_OUT:
        return f"layer {layer} makes {share:.0f} % {of_all}: keep it float (--keep-float)"
    return (
        f"no layer stands out: the largest, {layer}, makes {share:.0f} % {of_all}; "
        f"a float value of {value:.3g} is moved by rounding alone"
    )
