"""`degmix-edge demo`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option(
    "--scenes", default=64, show_default=True, type=click.IntRange(1), help="Held-out scenes."
)
@click.option("--calls", default=60, show_default=True, type=click.IntRange(1), help="To time.")
@click.option("--fresh", is_flag=True, help="Build again what an earlier demo left in OUT.")
@verb
def command(output: Output, out: Path, scenes: int, calls: int, fresh: bool) -> None:
    """The whole way on this machine: build, run, time, compare, show.

    Builds FP32 and INT8 bundles of degmix_tiny, runs them on scikit-image's photographs and on
    held-out synthetic scenes, and writes OUT/report.html, OUT/sheet.png and OUT/results.json.
    """
    from degmix_edge.cli._demo import run

    results = run(output, out, scenes=scenes, calls=calls, fresh=fresh)
    output.result(results.values)
    results.check()
