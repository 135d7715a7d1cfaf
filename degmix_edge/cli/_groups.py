"""Options that two verbs share."""

from __future__ import annotations

import click

from degmix_edge.cli._types import DATA_SET, MODEL, PATH

PARTS = [
    click.option(
        "--label-map",
        type=PATH,
        metavar="FILE",
        help="Of folder:DIR: which class each id of its label files is, as in `semseg: {7: road}`.",
    ),
    click.option(
        "--slices",
        metavar="A,B",
        default="",
        show_default=False,
        help="Score parts apart: folder, time, brightness, class.",
    ),
    click.option("--bootstrap", default=0, metavar="N", help="Draw N sets for intervals."),
    click.option("--workers", type=click.IntRange(1), default=1, help="Processes."),
    click.option("--address", metavar="HOST:PORT", help="A Ray cluster that does the work."),
]
"""Of a labelled data set that is scored in parts."""
UNTRAINED = [
    click.option("--model", type=MODEL, help="Take a model with random weights: see `zoo --list`."),
    click.option("--backbone", help="Its backbone, by timm name."),
    click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="A setting of it."),
    click.option("--data", type=DATA_SET, help="Whose classes it has. [default: nyud, if it fits]"),
]
