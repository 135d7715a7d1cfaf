"""The options that `build engine` and `quantize` share: the fields of `workflows.build.Options`."""

from __future__ import annotations

import os
from typing import Any

import click

from degmix_edge.cli._types import DEVICE, OBSERVER, PATH, TASKS

PRECISIONS = ["fp32", "fp16", "bf16", "int8", "fp8", "auto"]
PRECISION = [
    click.option("--precision", type=click.Choice(PRECISIONS), default="int8"),
    click.option(
        "--calib",
        "calibration",
        metavar="DIR",
        help="Images to calibrate INT8 with: a folder, nyud:DIR, synthetic:64.",
    ),
    click.option(
        "--calib-count",
        "calibration_count",
        type=click.IntRange(0),
        default=64,
        help="Of a larger folder, choose this many that differ most; 0 takes all.",
    ),
    click.option("--ranges", type=PATH, help="Use this ranges.json instead of calibrating."),
    click.option(
        "--observer", type=OBSERVER, default="mse", help="min_max, percentile, entropy or mse."
    ),
    click.option("--tasks", type=TASKS, help="Keep these tasks only."),
    click.option("--keep-float", multiple=True, metavar="NODE", help="Keep this node in fp32."),
    click.option("--raw-logits", is_flag=True, help="Keep the logits as outputs too."),
    click.option("--force", is_flag=True, help="Replace --out."),
]
BUDGET = [
    click.option(
        "--budget",
        metavar="LIMITS",
        help="What each task may lose: 'semseg=-0.5pt,depth=+1%,normals=+0.3deg', or 1% for all. "
        "INT8 only; finds the recipe that saves most inside it.",
    ),
    click.option(
        "--examples",
        default="synthetic:16",
        help="Images that the budget is measured on: nyud:DIR:64, synthetic:16, or a folder (then "
        "the float network's maps are the labels).",
    ),
    click.option(
        "--device",
        type=DEVICE,
        default="cpu",
        help="Target whose savings count: orin-agx, orin-nano, thor, rtx4090, h100, h200, or cpu "
        "(measured here).",
    ),
    click.option(
        "--min-int8",
        type=click.FloatRange(0, 100),
        default=0.0,
        help="Percent of the MACs that must be INT8.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=min(8, os.cpu_count() or 1),
        show_default="cores, at most 8",
        help="Processes that measure layers.",
    ),
    click.option("--address", metavar="HOST:PORT", help="A Ray cluster that measures layers."),
    click.option("--report", type=PATH, help="Page of the search. [default: OUT.budget.html]"),
]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `options` that the user typed: the others keep the library's defaults."""
    source = click.get_current_context().get_parameter_source
    typed = {k: v for k, v in options.items() if source(k) != click.core.ParameterSource.DEFAULT}
    if "budget" in typed:
        typed["workers"] = options["workers"]
    return typed
