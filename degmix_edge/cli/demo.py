"""`degmix-edge demo`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import example, verb

GROUP = "Run"
EXAMPLE = example("demo --out demo")


@click.command(epilog=EXAMPLE)
@click.option("--out", type=PATH, default=Path("demo"), show_default=True)
@click.option(
    "--scenes", default=64, show_default=True, type=click.IntRange(1), help="Held-out scenes."
)
@click.option("--calls", default=60, show_default=True, type=click.IntRange(1), help="To time.")
@click.option("--fresh", is_flag=True, help="Build again what an earlier demo left in OUT.")
@verb
def command(output: Output, out: Path, scenes: int, calls: int, fresh: bool) -> None:
    """Go the whole way on this machine: build, run, time, compare, show.

    Builds FP32 and INT8 bundles of degmix_lite0, runs them on scikit-image's photographs and on
    held-out synthetic scenes, and writes OUT/report.html, OUT/sheet.png and OUT/results.json.
    """
    from degmix_edge.workflows.bench import latency_table
    from degmix_edge.workflows.comparison import task_table, tensor_table
    from degmix_edge.workflows.demo import demo

    found = demo(out, scenes=scenes, calls=calls, fresh=fresh)
    for comparison in found.comparisons.values():
        output.table(*tensor_table(comparison))
        output.table(*task_table({"engine": comparison}, "held-out scenes"))
        output.say(comparison.verdict)
    where = found.values["machine"]["cpu"]
    output.table(*latency_table(found.latencies, f"photographs on {where}"))
    output.say(found.verdict)
    output.say(f"report: {(out / 'report.html').absolute().as_uri()}")
    output.say(f"pictures: {out / 'sheet.png'}, numbers: {out / 'results.json'}")
    output.result(found.values)
    found.check()
