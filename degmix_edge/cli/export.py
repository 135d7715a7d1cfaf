"""`degmix-edge export onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from degmix_edge.cli._groups import UNTRAINED
from degmix_edge.cli._types import NAME_OR_FILE, PATH, SIZE, TASKS
from degmix_edge.cli._verb import Group, options, verb
from degmix_edge.terminal import Output

if TYPE_CHECKING:
    from degmix_edge.workflows.export import Exported

GROUP = "Build"


@click.group(cls=Group)
def command() -> None:
    """Write a checkpoint as ONNX."""


@verb("export onnx degmix_tiny --report", of=command, name="onnx")
@click.argument("checkpoint", type=NAME_OR_FILE, required=False)
@options(UNTRAINED)
@click.option("--size", type=SIZE, help="Its input size, as in 448x672.")
@click.option("--seed", default=0, help="Of the random weights.")
@click.option(
    "--tasks",
    type=TASKS,
    default=(),
    help="Of a checkpoint: keep these only. Of --model: its tasks.",
)
@click.option("--keep", type=TASKS, default=(), help="Of --model: keep these of its tasks only.")
@click.option("--report", is_flag=True, help="MACs, nodes, bytes and exactness after every step.")
@click.option("--out", type=PATH, default=Path("model.onnx"))
@click.option("--force", is_flag=True, help="Replace --out.")
def onnx_(output: Output, checkpoint: str | None, out: Path, **options: Any) -> None:
    """Export CHECKPOINT (a file, or degmix_tiny) as float ONNX: image in, logits out.

    The graph is simplified: exact folds of the model, then graph passes. --report shows what each
    gives, against the plain export.
    """
    found = _export(checkpoint, out, **options)
    output.show(found.text())
    output.result(found.values())


def _export(checkpoint: str | None, out: Path, *, model: str | None, **options: Any) -> Exported:
    from degmix_edge.workflows.export import export, export_random

    if (checkpoint is None) == (model is None):
        raise click.UsageError("give a CHECKPOINT, or --model NAME with --size")
    if model is not None:
        if not options["size"]:
            raise click.UsageError("--model needs --size, as in --size 448x672")
        return export_random(model, out, **options)
    for name in ("backbone", "size", "data", "overrides", "keep"):
        if options.pop(name):
            flag = "set" if name == "overrides" else name
            raise click.UsageError(f"--{flag} is for --model; a checkpoint has its own")
    del options["seed"]
    return export(checkpoint, out, **options)
