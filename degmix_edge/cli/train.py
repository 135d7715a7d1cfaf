"""`degmix-edge train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._machine import MACHINE, loaders, take_machine
from degmix_edge.cli._types import NAME_OR_FILE, PATH
from degmix_edge.cli._verb import options, verb
from degmix_edge.terminal import Output

GROUP = "Train"


@verb(
    "train --list",
    "train degmix_tiny --task semseg --task depth --out runs/two",
    "train nyud_demtg --data nyud:NYUDv2 --devices 4",
    "train --qat int8.degmix/recipe.yaml --from runs/mine/best.safetensors --out runs/qat",
)
@click.argument("preset", type=NAME_OR_FILE, metavar="[PRESET_OR_YAML]", required=False)
@click.option("--out", type=PATH, default=Path("runs/train"))
@click.option("--list", "show", is_flag=True, help="Show the presets, and stop.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change one setting.")
@click.option("--task", "tasks", multiple=True, help="Train on this task only; may be repeated.")
@click.option(
    "--pretrained",
    metavar="NAME|FILE",
    help="Backbone weights: timm (its ImageNet), efficientnet_lite0 (a package), none, or a file.",
)
@click.option("--data", metavar="NAME:DIR", help="Data set and its folder, as in nyud:NYUDv2.")
@click.option("--qat", type=PATH, metavar="RECIPE", help="Train FROM for this INT8 recipe.yaml.")
@click.option("--from", "start", metavar="CHECKPOINT", help="Checkpoint that --qat starts from.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT.")
@click.option("--force", is_flag=True, help="Write into an OUT that holds another run.")
@options(MACHINE)
@loaders("--workers")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network (torch.compile).")
def command(output: Output, preset: str | None, *, show: bool, **values: Any) -> None:
    """Train PRESET (degmix_tiny) or a YAML config; write checkpoints, losses and scores to OUT.

    `train --list` shows the presets. With --qat and --from, there is no PRESET: a trained
    checkpoint is fine-tuned for INT8.
    """
    from degmix_edge.workflows.training import preset_table, presets

    if show:
        output.show([preset_table()])
        listed = {p.name: {k: v for k, v in vars(p).items() if k != "name"} for p in presets()}
        output.result({"presets": listed})
        return
    recipe, start = values.pop("qat"), values.pop("start")
    if (recipe is None) != (start is None):
        raise click.UsageError("--qat RECIPE and --from CHECKPOINT belong together; give both")
    if recipe is not None:
        if preset is not None or any([values.pop("tasks"), values.pop("pretrained")]):
            raise click.UsageError(
                "--qat trains what --from has: leave out PRESET, --task and --pretrained"
            )
        _train(output, qat=recipe, start=start, **values)
        return
    if preset is None:
        names = ", ".join(p.name for p in presets())
        raise click.UsageError(
            f"no PRESET_OR_YAML given. Presets: {names}. `degmix-edge train --list` shows them"
        )
    _train(output, preset=preset, **values)


def _train(output: Output, *, compiled: bool, **values: Any) -> None:
    from degmix_training.processes import is_first_process

    from degmix_edge.workflows.qat import train_quantized
    from degmix_edge.workflows.training import train

    machine = take_machine(values, compiled=compiled)
    if "qat" in values:
        run = train_quantized(values.pop("qat"), machine=machine, **values)
    else:
        run = train(machine=machine, **values)
    if is_first_process():
        output.show(run.text())
        output.result(run.values())
