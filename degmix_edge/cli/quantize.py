"""`degmix-edge quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli import _build_options
from degmix_edge.cli._build_options import BUDGET, PRECISION
from degmix_edge.cli._input_options import INPUT
from degmix_edge.cli._types import NAME_OR_FILE, PATH
from degmix_edge.cli._verb import options, verb
from degmix_edge.terminal import Output

GROUP = "Build"


@verb("quantize degmix_tiny --calib photos/ --budget 'semseg=-0.5pt,depth=+1%'")
@click.argument("network", type=NAME_OR_FILE, metavar="CHECKPOINT_OR_ONNX")
@options(PRECISION, INPUT, BUDGET)
@click.option("--out", type=PATH, default=Path("model.int8.onnx"))
def command(output: Output, network: str, out: Path, force: bool, **options: Any) -> None:
    """Write the quantized ONNX, its recipe and its ranges, without building an engine.

    Beside OUT come OUT.recipe.yaml, OUT.ranges.json, which can be given to --ranges next time, and
    OUT.ranges.svg, which shows how the ranges settled. An interrupted calibration is resumed.
    """
    from degmix_edge.workflows.quantize import quantize

    found = quantize(network, out, force=force, **_build_options.given(options))
    values = {"out": out, "nodes": found.nodes, "files": list(found.files), "stages": output.stages}
    output.say(f"{out}: {len(found.model) / 1e6:.1f} MB")
    output.result(values | ({"budget": found.budget.values()} if found.budget else {}))
