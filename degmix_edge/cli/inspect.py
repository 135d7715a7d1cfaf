"""`degmix-edge inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

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
@click.option("--rates", metavar="A=HZ,...", help="What tasks at their own rates would cost.")
@verb
def command(
    output: Output, thing: str | None, nodes: bool, model: str | None, **options: Any
) -> None:
    """Say what a bundle, an ONNX file or a checkpoint holds, or what a model costs."""
    if (thing is None) == (model is None):
        raise click.UsageError("give a bundle, ONNX file or checkpoint, or --model NAME")
    if (rates := options.pop("rates")) is not None:
        _rates(output, rates, thing, model, options)
        return
    if model is not None:
        _model(output, model, options)
        return
    from degmix_edge.workflows.describe import BundleContents, OnnxContents, describe

    contents = describe(str(thing))
    if isinstance(contents, BundleContents):
        _bundle(output, contents, nodes)
    elif isinstance(contents, OnnxContents):
        _onnx(output, contents)
    else:
        _checkpoint(output, contents)


def _rates(
    output: Output, text: str, thing: str | None, model: str | None, options: dict[str, Any]
) -> None:
    from degmix_edge.workflows.rates import model_at, rate_cost, rate_line, rate_table, rates_of

    found = rate_cost(thing if model is None else model_at(model, **options), rates_of(text))
    output.table(*rate_table(found))
    output.say(rate_line(found))
    output.result({"split": found.split, "rates": found.rates, "cost": found.cost})


def _model(output: Output, model: str, options: dict[str, Any]) -> None:
    from degmix_edge.workflows.models import cost_table, cost_values, model_cost
    from degmix_edge.workflows.networks import task_names

    options["tasks"] = task_names(options["tasks"], model)
    cost = model_cost(model, options.pop("size"), **options)
    output.table(*cost_table(cost))
    output.say("GMAC: billions of multiply-adds an image, attention and deformable ones included")
    output.result(cost_values(cost))


def _bundle(output: Output, found: BundleContents, nodes: bool) -> None:
    from degmix_edge.workflows.describe import bundle_lines

    for line in bundle_lines(found):
        output.say(line)
    if nodes:
        rows = [[p.node, p.op, p.precision, p.reason] for p in found.recipe.placements]
        output.table("recipe", ["node", "operator", "precision", "reason"], rows)
    sizes = found.size_bytes
    output.table("files", ["file", "bytes"], [[n, f"{s:,}"] for n, s in sizes.items()])
    values = {"manifest": found.manifest, "contract": found.contract, "recipe": found.recipe}
    values |= {"sizes": found.sizes} if len(found.sizes) > 1 else {}
    output.result({**values, "size_bytes": sizes})


def _onnx(output: Output, found: OnnxContents) -> None:
    from degmix_edge.workflows.describe import onnx_lines

    for line in onnx_lines(found):
        output.say(line)
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
