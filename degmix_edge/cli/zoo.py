"""`degmix-edge zoo`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("zoo", metavar="[ZOO_OR_YAML]", default="smoke")
@click.option("--models", metavar="A,B", help="Entries to compare; default: all of the zoo.")
@click.option("--list", "show", is_flag=True, help="Show zoos and models, and stop.")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    metavar="NAME=FILE",
    help="Take this checkpoint for entry NAME instead of training it.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/zoo"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change one setting.")
@click.option("--data", metavar="NAME:DIR", help="Data set and its folder, as in nyud:NYUDv2.")
@click.option("--backend", default="onnxruntime", show_default=True, help="One or more: a,b.")
@click.option("--calib-count", type=click.IntRange(1), default=32, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=30, show_default=True, help="To time.")
@click.option("--force", is_flag=True, help="Start anew in an OUT of other settings.")
@click.option("--devices", type=int, default=1, show_default=True, help="GPUs a training.")
@click.option("--nodes", type=int, default=1, show_default=True, help="Machines (torchrun, SLURM).")
@click.option(
    "--accelerator", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True
)
@click.option("--workers", type=int, default=0, show_default=True, help="Data loading processes.")
@verb
def command(output: Output, zoo: str, show: bool, **options: object) -> None:
    """Train networks alike, export, quantize and time them, and compare them in one table.

    Writes OUT/zoo.html, zoo.csv, zoo.json and zoo.png: delta_m against MACs, parameters, latency
    and size. What is done stays done: the same command goes on after an interruption.
    """
    if show:
        _list(output)
        return
    from degmix_edge.cli._zoo import run

    output.result(run(output, zoo, **options))  # type: ignore[arg-type]


def _list(output: Output) -> None:
    from degmix_training import models
    from degmix_training.zoo import ZooConfig, zoo, zoos

    from degmix_edge import config

    found = {name: config.load(ZooConfig, zoo(name)) for name in zoos()}
    first = {name: (models.find(name).__doc__ or "").splitlines()[0] for name in models.names()}
    output.table("models", ["model", "what it is"], [[n, text] for n, text in first.items()])
    output.table(
        "zoos",
        ["zoo", "size", "steps", "networks"],
        [
            [n, f"{z.train.height}x{z.train.width}", str(z.train.steps), ", ".join(z.entries)]
            for n, z in found.items()
        ],
    )
    output.result({"models": first, "zoos": {n: list(z.entries) for n, z in found.items()}})
