"""`degmix-edge build engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli import _build_options
from degmix_edge.cli._build_options import BUDGET, PRECISION
from degmix_edge.cli._input_options import INPUT
from degmix_edge.cli._types import BACKEND, NAME_OR_FILE, PATH
from degmix_edge.cli._verb import Group, options, verb
from degmix_edge.terminal import Output

GROUP = "Build"
ENGINE = [
    click.option("--share-weights", is_flag=True, help="Write weights of both graphs once."),
    click.option(
        "--backend",
        type=BACKEND,
        help="auto builds all, times them and keeps the fastest. [default: the usual one, untimed]",
    ),
    click.option(
        "--dcn",
        type=click.Choice(["auto", "plugin", "offsets", "builtin", "gridsample"]),
        default="auto",
        help="TensorRT: the form of deformable convolutions; auto times each.",
    ),
    click.option(
        "--version-compatible", is_flag=True, help="TensorRT: runs with later versions too."
    ),
    click.option(
        "--hardware-compatible", is_flag=True, help="TensorRT: runs on any card since Ampere."
    ),
    click.option("--dla-core", type=click.IntRange(0), help="TensorRT on Orin: experimental."),
    click.option("--split", is_flag=True, help="ONNX Runtime: tasks run at their own rates."),
]


@click.group(cls=Group)
def command() -> None:
    """Build an engine bundle: export, passes, calibration, engine and golden check in one go."""


@verb(
    "build engine degmix_tiny --calib photos/ --out robot.degmix",
    "build engine -c robot.yaml --dry-run",
    of=command,
    name="engine",
)
@click.argument(
    "network", type=NAME_OR_FILE, metavar="CHECKPOINT_OR_ONNX_OR_BUNDLE", required=False
)
@click.option(
    "-c",
    "config_file",
    type=PATH,
    metavar="FILE",
    help="Read network, out and options from this YAML file; typed options override it.",
)
@options(PRECISION, INPUT, BUDGET, ENGINE)
@click.option("--out", type=PATH, help="The bundle's folder. [default: robot.degmix]")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and stop.")
def engine(
    output: Output,
    network: str | None,
    *,
    config_file: Path | None,
    out: Path | None,
    force: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Build a bundle from a network in one go.

    The network is a checkpoint (a file, or degmix_tiny), a float ONNX whose outputs are named after
    tasks, or a bundle whose engine is built again for this machine.
    """
    from degmix_edge.workflows import build_file
    from degmix_edge.workflows.build import build

    plan = build_file.read(config_file, _build_options.given(options), network, out)
    if dry_run:
        plan.check(force=force)
        output.show(plan.text())
        output.result(plan.values())
        return
    built = build(plan.network, plan.target, options=plan.options, force=force)
    manifest, tasks = built.manifest, built.manifest.network.task_names
    output.say(f"{built.path}: {manifest.precision}, {', '.join(tasks)}")
    values: dict[str, Any] = {"bundle": built.path, "precision": manifest.precision}
    values |= {"tasks": tasks, "size_bytes": built.size_bytes, "engines": manifest.engines}
    output.result(values | {"stages": output.stages})
