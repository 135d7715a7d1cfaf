"""`degmix-edge demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Run"


@verb("demo --out demo")
@click.option("--out", type=PATH, default=Path("demo"))
@click.option("--scenes", default=64, type=click.IntRange(1), help="Held-out scenes.")
@click.option("--calls", default=60, type=click.IntRange(1), help="To time.")
@click.option("--fresh", is_flag=True, help="Build again what an earlier demo left in OUT.")
def command(output: Output, out: Path, **options: Any) -> None:
    """Go the whole way on this machine: build, run, time, compare, show.

    Builds FP32 and INT8 bundles of degmix_lite0, runs them on scikit-image's photographs and on
    held-out synthetic scenes, and writes OUT/report.html, OUT/sheet.png and OUT/results.json.
    """
    from degmix_edge.workflows.demo import demo

    found = demo(out, **options)
    output.show(found.text())
    output.result(found.values)
    found.check()
