"""`degmix-edge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import BACKEND, NAME_OR_FILE, PATH, SIZE
from degmix_edge.cli._verb import example, verb

GROUP = "Judge"
EXAMPLE = example("bench robot.degmix --against torch")


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=PATH)
@click.argument("checkpoint", type=NAME_OR_FILE, required=False)
@click.option(
    "--data", "images", default="photos", show_default=True, help="Images to cycle through."
)
@click.option(
    "--against", type=click.Choice(["torch", "onnx"]), help="Time CHECKPOINT in the same run."
)
@click.option("--calls", default=100, show_default=True, type=click.IntRange(1))
@click.option("--rate", type=float, help="Offer this many images a second, as a camera does.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--threads", type=click.IntRange(1), help="For both; default: all cores.")
@click.option("--backend", type=BACKEND, metavar="NAME", default="auto", show_default=True)
@verb
def command(output: Output, bundle: Path, **options: Any) -> None:
    """Time BUNDLE: pre, net, post and total, p50/p90/p99, contestants alternating in one run."""
    from degmix_edge.workflows.bench import bench, latency_table, machine

    results = bench(bundle, **options)
    where = machine()
    output.table(*latency_table(results, f"{bundle} on {where['cpu']}, {where['cores']} cores"))
    values: dict[str, object] = {"bundle": bundle, "results": results, "machine": where}
    if options["against"]:
        engine, other = results.values()
        ratio = other.median_net_ms / engine.median_net_ms
        output.say(f"engine call: {ratio:.2f}x faster than {other.name} (medians, one run)")
        values["speedup_net"] = ratio
    output.result(values)
