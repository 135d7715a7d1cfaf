"""`degmix-edge inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("thing", metavar="BUNDLE_ONNX_OR_CHECKPOINT", required=False)
@click.option("--nodes", is_flag=True, help="Every weighted node's precision and reason (bundles).")
@click.option("--model", help="Count a model instead: demt, demtg, degmix, baseline.")
@click.option("--backbone", help="Its backbone, by timm name.")
@click.option("--size", metavar="HxW", help="Input size of the count, as in 425x560.")
@click.option("--tasks", metavar="A,B", help="Its tasks.")
@click.option("--data", help="Data set whose classes it has; default: nyud, else one that fits.")
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="Other model settings.")
@verb
def command(
    output: Output,
    thing: str | None,
    nodes: bool,
    model: str | None,
    backbone: str | None,
    size: str | None,
    tasks: str | None,
    data: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Say what a bundle, an ONNX file or a checkpoint holds, or what a model costs."""
    if (thing is None) == (model is None):
        raise click.UsageError("give a bundle, ONNX file or checkpoint, or --model NAME")
    if model is not None:
        _model(output, model, backbone, size, tasks, data, overrides)
        return
    assert thing is not None
    path = Path(thing)
    if path.is_dir():
        _bundle(output, path, nodes)
    elif path.suffix == ".onnx":
        _onnx(output, path)
    else:
        _checkpoint(output, thing)


def _model(
    output: Output,
    model: str,
    backbone: str | None,
    size: str | None,
    tasks: str | None,
    data: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Parameters and multiply-adds, of the network and of the one that export makes of it."""
    import torch
    from degmix_training import cost, models
    from degmix_training.config import network_config

    from degmix_edge import config
    from degmix_edge.cli._models import size as parse_size
    from degmix_edge.cli._models import specs
    from degmix_edge.cli._sources import split_tasks

    height, width = parse_size(size or "425x560")
    find = models.find(model)
    values = config.override({"backbone": backbone} if backbone else {}, overrides)
    settings = network_config(model, values)
    data, task_specs = specs(split_tasks(tasks), data)
    with torch.device("meta"):
        network = find.Model(settings, task_specs)
        folded = network.fold_for_inference()
    counts = cost.count(network, height, width)
    folded_counts = cost.count(folded, height, width)
    rows = [["parameters M", f"{counts.params / 1e6:.3f}", f"{folded_counts.params / 1e6:.3f}"]]
    for part in ("total", *counts.macs_of):
        pair = [c.macs_of.get(part, c.macs) for c in (counts, folded_counts)]
        rows.append([f"GMAC {part}", *(f"{macs / 1e9:.2f}" for macs in pair)])
    title = f"{model}, {height}x{width}, {', '.join(task_specs)} with the classes of {data}"
    output.table(title, ["", "trained", "exported"], rows)
    output.say("GMAC: billions of multiply-adds an image, attention and deformable ones included")
    output.result(
        {
            "model": model,
            "network": settings,
            "height": height,
            "width": width,
            "data": data,
            "tasks": {name: spec.num_channels for name, spec in task_specs.items()},
            "params": counts.params,
            "macs": counts.macs,
            "macs_of": counts.macs_of,
            "exported": folded_counts,
        }
    )


def _bundle(output: Output, path: Path, nodes: bool) -> None:
    from degmix_edge import config
    from degmix_edge.bundle import open_bundle
    from degmix_edge.quant.recipe import Recipe

    opened = open_bundle(path)
    manifest = opened.manifest
    spec = manifest.network
    output.say(f"{path}: {spec.model}, {manifest.precision}, built {manifest.created}")
    output.say(f"source: {spec.source.name} ({spec.source.sha256[:12]})")
    output.say(f"input: {manifest.inputs[0]}, {manifest.fit.mode}")
    for tensor in manifest.outputs:
        output.say(f"output: {tensor}")
    for engine in manifest.engines:
        output.say(f"engine: {engine.backend} {engine.version} on {engine.device}")
    recipe = config.load(Recipe, opened.file("recipe.yaml"))
    kept = Counter(p.reason for p in recipe.placements if p.precision == "fp32")
    output.say(f"weighted nodes in {recipe.precision}: {len(recipe.nodes(recipe.precision))}")
    for reason, count in kept.items():
        output.say(f"  fp32: {count} x {reason}")
    if nodes:
        output.table(
            "recipe",
            ["node", "operator", "precision", "reason"],
            [[p.node, p.op, p.precision, p.reason] for p in recipe.placements],
        )
    sizes = {name: (path / name).stat().st_size for name in manifest.files}
    output.table("files", ["file", "bytes"], [[n, f"{s:,}"] for n, s in sizes.items()])
    output.result({"manifest": manifest, "recipe": recipe, "size_bytes": sizes})


def _onnx(output: Output, path: Path) -> None:
    from degmix_edge.network import METADATA_KEY
    from degmix_edge.passes._base import read_model

    model = read_model(path)
    counts = Counter(node.op_type for node in model.graph.node)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    values: dict[str, Any] = {
        "opset": opset,
        "inputs": {v.name: _shape(v) for v in model.graph.input},
        "outputs": {v.name: _shape(v) for v in model.graph.output},
        "operators": dict(counts.most_common()),
        "size_bytes": path.stat().st_size,
    }
    output.say(
        f"{path}: opset {opset}, {len(model.graph.node)} nodes, {values['size_bytes']:,} bytes"
    )
    for kind in ("inputs", "outputs"):
        for name, shape in values[kind].items():
            output.say(f"{kind[:-1]}: {name} {shape}")
    output.say("operators: " + ", ".join(f"{op} {n}" for op, n in counts.most_common()))
    if not any(prop.key == METADATA_KEY for prop in model.metadata_props):
        output.say("no degmix metadata: tasks are known by output names")
    output.result({"path": path, **values})


def _shape(value: Any) -> list[Any]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _checkpoint(output: Output, thing: str) -> None:
    from degmix_training.checkpoint import locate, read_card

    path = locate(thing)
    card = read_card(path)
    output.say(
        f"{path}: {card.model}, {card.height}x{card.width}, step {card.step}, seed {card.seed}"
    )
    output.say(f"commit {card.commit}; " + ", ".join(f"{k} {v}" for k, v in card.versions.items()))
    output.table(
        "validation scores",
        ["task", "metric", "value", "best constant"],
        [
            [task, f"{s.metric} [{s.unit}]", f"{s.value:.3f}", f"{s.constant:.3f}"]
            for task, s in card.scores.items()
        ],
    )
    output.result({"path": path, "card": card})
