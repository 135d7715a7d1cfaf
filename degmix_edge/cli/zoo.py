"""`degmix-edge zoo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._machine import MACHINE, SPREAD, loaders, take_machine
from degmix_edge.cli._types import BACKENDS, MODELS, NAME_OR_FILE, PATH
from degmix_edge.cli._verb import options, verb
from degmix_edge.terminal import Output

GROUP = "Train"


@verb("zoo --list", "zoo smoke --models padnet,mlore --seeds 3 --out runs/zoo")
@click.argument("zoo", type=NAME_OR_FILE, metavar="[ZOO_OR_YAML]", default="smoke")
@click.option("--models", type=MODELS, default=(), help="Entries to compare. [default: all]")
@click.option("--list", "show", is_flag=True, help="Show zoos and models, and stop.")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=FILE",
    help="Take this checkpoint for entry NAME instead of training it.",
)
@click.option("--out", type=PATH, default=Path("runs/zoo"))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change one setting.")
@click.option("--data", metavar="NAME:DIR", help="Data set and its folder, as in nyud:NYUDv2.")
@click.option("--seeds", metavar="N|A,B", help="Train N times, or with these seeds: 3, or 0,7,8.")
@click.option("--backend", "backends", type=BACKENDS, default="onnxruntime", help="To time.")
@click.option(
    "--calib-count",
    "calibration_count",
    type=click.IntRange(1),
    default=32,
    help="Training images to calibrate INT8 with.",
)
@click.option("--calls", type=click.IntRange(1), default=30, help="To time.")
@click.option("--force", is_flag=True, help="Start anew in an OUT of other settings.")
@options(MACHINE, SPREAD)
@loaders("--loaders")
def command(output: Output, zoo: str, *, show: bool, **values: Any) -> None:
    """Train networks the same way, export, quantize and time them, compare them in one table.

    Writes OUT/zoo.html, zoo.csv, zoo.json and zoo.png: delta_m against MACs, parameters, latency
    and size. It is resumable: the same command continues after an interruption, and a training
    restarts from its last validation.
    """
    if show:
        from degmix_edge.workflows.zoo.listing import list_models, list_zoos, zoo_tables

        output.show(zoo_tables())
        zoos = {zoo.name: list(zoo.entries) for zoo in list_zoos()}
        output.result({"models": list_models(), "zoos": zoos})
    else:
        _run(output, zoo, **values)


def _run(output: Output, name: str, *, checkpoints: tuple[str, ...], **values: Any) -> None:
    from degmix_training.processes import is_first_process

    from degmix_edge.workflows.zoo import zoo
    from degmix_edge.workflows.zoo.plan import named_files
    from degmix_edge.workflows.zoo.tables import zoo_text

    if not is_first_process():
        output.hush()
    machine, files = take_machine(values), named_files(checkpoints)
    result = zoo(name, checkpoints=files, machine=machine, **values)
    if result.networks:
        output.show(zoo_text(result))
        output.result(result.values())
