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
@click.option("--resume", is_flag=True, help="Go on where OUT stopped.")
@click.option("--force", is_flag=True, help="Write into an OUT that holds another run.")
@verb
def command(
    output: Output, preset: str, out: Path, overrides: tuple[str, ...], resume: bool, force: bool
) -> None:
    """Train PRESET (degmix_tiny) or a YAML config; write a checkpoint, losses and scores to OUT."""
    from degmix_training.config import TrainConfig
    from degmix_training.config import preset as find

    from degmix_edge import config
    from degmix_edge.cli._files import make_folder
    from degmix_edge.errors import OutputError

    settings = config.load(TrainConfig, find(preset), overrides)
    settings.task_specs()
    make_folder(out)
    if any(out.iterdir()) and not (resume or force):
        raise OutputError(f"{out}: not empty; give --resume to go on, or --force to start anew")
    from degmix_training.fit import fit

    (out / "config.yaml").write_text(config.dump(settings))
    path = fit(settings, out, resume=resume)
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
    output.result({"checkpoint": path, "scores": card.scores, "step": card.step})
