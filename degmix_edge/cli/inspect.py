"""`degmix-edge inspect`."""

from __future__ import annotations

from typing import Any

import click

from degmix_edge.cli._groups import UNTRAINED
from degmix_edge.cli._types import NAME_OR_FILE, SIZE, TASKS
from degmix_edge.cli._verb import options, verb
from degmix_edge.terminal import Output

GROUP = "Judge"


@verb("inspect robot.degmix --nodes")
@click.argument("thing", type=NAME_OR_FILE, metavar="BUNDLE_ONNX_OR_CHECKPOINT", required=False)
@click.option("--nodes", is_flag=True, help="Every weighted node's precision and reason (bundles).")
@options(UNTRAINED)
@click.option("--size", type=SIZE, default="425x560", help="Input size of the count.")
@click.option("--tasks", type=TASKS, default=(), help="Its tasks.")
@click.option("--rates", metavar="A=HZ,...", help="What tasks at their own rates would cost.")
def command(
    output: Output, thing: str | None, nodes: bool, model: str | None, **options: Any
) -> None:
    """Say what a bundle, an ONNX file or a checkpoint holds, or what a model costs."""
    if (thing is None) == (model is None):
        raise click.UsageError("give a bundle, ONNX file or checkpoint, or --model NAME")
    from degmix_edge.workflows.describe import BundleContents, describe
    from degmix_edge.workflows.models import model_cost
    from degmix_edge.workflows.rates import model_at, rate_cost, rates_of

    found: Any
    if (rates := options.pop("rates")) is not None:
        network = thing if model is None else model_at(model, **options)
        found = rate_cost(network, rates_of(rates))
    elif model is not None:
        found = model_cost(model, options.pop("size"), **options)
    else:
        found = describe(str(thing))
    output.show(found.text())
    if nodes and isinstance(found, BundleContents):
        output.table(*found.node_table())
    output.result(found.values())
