"""`degmix-edge train`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("preset", metavar="PRESET_OR_YAML")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/train"), show_default=True
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Change one setting.")
@click.option("--task", "tasks", multiple=True, help="Train on this task only; may be repeated.")
@click.option(
    "--pretrained", metavar="timm|none|FILE", help="Backbone weights: timm's ImageNet, or a file."
)
@click.option("--data", metavar="NAME:DIR", help="Data set and its folder, as in nyud:NYUDv2.")
@click.option("--resume", is_flag=True, help="Go on where OUT stopped.")
@click.option("--force", is_flag=True, help="Write into an OUT that holds another run.")
@click.option("--devices", type=int, default=1, show_default=True, help="Processes (GPUs) here.")
@click.option("--nodes", type=int, default=1, show_default=True, help="Machines (torchrun, SLURM).")
@click.option(
    "--accelerator", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True
)
@click.option("--workers", type=int, default=0, show_default=True, help="Data loading processes.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network (torch.compile).")
@verb
def command(
    output: Output,
    preset: str,
    out: Path,
    overrides: tuple[str, ...],
    tasks: tuple[str, ...],
    pretrained: str | None,
    data: str | None,
    resume: bool,
    force: bool,
    devices: int,
    nodes: int,
    accelerator: str,
    workers: int,
    compiled: bool,
) -> None:
    """Train PRESET (degmix_tiny) or a YAML config; write checkpoints, losses and scores to OUT."""
    from degmix_training.config import TrainConfig
    from degmix_training.config import preset as find

    from degmix_edge import config
    from degmix_edge.cli._files import make_folder
    from degmix_edge.errors import ConfigError, OutputError

    changes = list(overrides)
    if tasks:
        changes.append(f"tasks=[{','.join(tasks)}]")
    if pretrained:
        changes.append(f"pretrained={pretrained}")
    if data:
        name, separator, root = data.partition(":")
        if not separator and name != "synthetic":
            raise ConfigError(f"--data {data}: expected NAME:DIR, as in nyud:NYUDv2")
        changes += [f"data.name={name}", f"data.root={root or 'null'}"]
        if name != "synthetic" and not any(c.startswith("data.train=") for c in changes):
            changes += ["data.train=null", "data.val=null"]
    settings = config.load(TrainConfig, find(preset), changes)
    settings.task_specs()
    from degmix_training.fit import Machine, fit
    from degmix_training.processes import is_first_process

    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    if is_first_process():
        make_folder(out)
        if any(out.iterdir()) and not (resume or force):
            raise OutputError(f"{out}: not empty; give --resume to go on, or --force to start anew")
    machine = Machine(accelerator, devices, nodes, workers, compiled)
    try:
        path = fit(settings, out, resume=resume, machine=machine)
    finally:
        if is_first_process():  # a run that never began leaves nothing
            for folder in new:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    if not is_first_process():
        return
    from degmix_training.checkpoint import read_card

    card = read_card(path)
    output.table(
        f"{path}, step {card.step}",
        ["task", "metric", "value", "best constant"],
        [
            [task, f"{s.metric} [{s.unit}]", f"{s.value:.3f}", f"{s.constant:.3f}"]
            for task, s in card.scores.items()
        ],
    )
    best = path.with_name("best.safetensors")
    output.say(f"best so far: {best}, step {read_card(best).step}")
    output.result({"checkpoint": path, "best": best, "scores": card.scores, "step": card.step})
