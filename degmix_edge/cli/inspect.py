"""`degmix-edge inspect`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from degmix_edge.cli._costs import print_model, print_rates
from degmix_edge.cli._output import Output
from degmix_edge.cli._types import DATA_SET, MODEL, NAME_OR_FILE, SIZE, TASKS
from degmix_edge.cli._verb import example, verb

if TYPE_CHECKING:
    from degmix_edge.workflows.describe import BundleContents, CheckpointContents, OnnxContents

GROUP = "Judge"
EXAMPLE = example("inspect robot.degmix --nodes")


@click.command(epilog=EXAMPLE)
@click.argument("thing", type=NAME_OR_FILE, metavar="BUNDLE_ONNX_OR_CHECKPOINT", required=False)
@click.option("--nodes", is_flag=True, help="Every weighted node's precision and reason (bundles).")
@click.option(
    "--model", type=MODEL, metavar="NAME", help="Count a model instead: see `zoo --list`."
)
@click.option("--backbone", help="Its backbone, by timm name.")
@click.option("--size", type=SIZE, default="425x560", help="Input size of the count.")
@click.option("--tasks", type=TASKS, metavar="A,B", help="Its tasks.")
@click.option(
    "--data",
    type=DATA_SET,
    metavar="NAME",
    help="Data set whose classes it has; default: nyud, else one that fits.",
)
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="Other model settings.")
@click.option(
    "--rates",
    metavar="TASK=HZ,...",
    help="What tasks at their own rates would cost: depth=30,semseg=10 (see `build --split`).",
)
@verb
def command(
    output: Output, thing: str | None, nodes: bool, model: str | None, **options: Any
) -> None:
    """Say what a bundle, an ONNX file or a checkpoint holds, or what a model costs."""
    if (thing is None) == (model is None):
        raise click.UsageError("give a bundle, ONNX file or checkpoint, or --model NAME")
    if (rates := options.pop("rates")) is not None:
        print_rates(output, thing, rates, model, options)
        return
    if model is not None:
        print_model(output, model, options)
        return
    from degmix_edge.workflows.describe import BundleContents, OnnxContents, describe

    contents = describe(str(thing))
    if isinstance(contents, BundleContents):
        _bundle(output, contents, nodes)
    elif isinstance(contents, OnnxContents):
        _onnx(output, contents)
    else:
        _checkpoint(output, contents)


def _bundle(output: Output, found: BundleContents, nodes: bool) -> None:
    from degmix_edge.bundle.contract import contract_lines

    manifest, recipe, spec = found.manifest, found.recipe, found.manifest.network
    output.say(f"{found.path}: {spec.model}, {manifest.precision}, built {manifest.created}")
    output.say(f"source: {spec.source.name} ({spec.source.sha256[:12]})")
    for size, agreed in found.sizes.items():
        if len(found.sizes) > 1:
            output.say(f"size {size}:")
        for line in contract_lines(agreed):
            output.say(line)
    for engine in manifest.engines:
        output.say(f"engine: {engine.backend} {engine.version} on {engine.device}")
    if manifest.split is not None:
        parts = (f"{name} {100 * share:.1f} %" for name, share in manifest.split.shares.items())
        output.say(f"runs any subset of its tasks; shares of a call: {', '.join(parts)}")
    output.say(f"weighted nodes in {recipe.precision}: {len(recipe.nodes(recipe.precision))}")
    kept = Counter(p.reason for p in recipe.placements if p.precision == "fp32")
    for reason, count in kept.items():
        output.say(f"  fp32: {count} x {reason}")
    if nodes:
        rows = [[p.node, p.op, p.precision, p.reason] for p in recipe.placements]
        output.table("recipe", ["node", "operator", "precision", "reason"], rows)
    sizes = found.size_bytes
    output.table("files", ["file", "bytes"], [[n, f"{s:,}"] for n, s in sizes.items()])
    values = {"manifest": manifest, "contract": found.contract, "recipe": recipe}
    values |= {"sizes": found.sizes} if len(found.sizes) > 1 else {}
    output.result({**values, "size_bytes": sizes})


def _onnx(output: Output, found: OnnxContents) -> None:
    nodes = sum(found.operators.values())
    output.say(f"{found.path}: opset {found.opset}, {nodes} nodes, {found.size_bytes:,} bytes")
    for kind, shapes in (("input", found.inputs), ("output", found.outputs)):
        for name, shape in shapes.items():
            output.say(f"{kind}: {name} {shape}")
    output.say("operators: " + ", ".join(f"{op} {n}" for op, n in found.operators.items()))
    if not found.described:
        output.say("no degmix metadata: tasks are known by output names")
    names = ("path", "opset", "inputs", "outputs", "operators", "size_bytes")
    output.result({name: getattr(found, name) for name in names})


def _checkpoint(output: Output, found: CheckpointContents) -> None:
    from degmix_edge.workflows.describe import score_table

    card, path = found.card, found.path
    size = f"{card.height}x{card.width}"
    output.say(f"{path}: {card.model}, {size}, step {card.step}, seed {card.seed}")
    output.say(f"commit {card.commit}; " + ", ".join(f"{k} {v}" for k, v in card.versions.items()))
    output.table(*score_table("validation scores", card.scores))
    output.result({"path": path, "card": card})
