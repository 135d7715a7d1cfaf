"""`degmix-edge build engine`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from degmix_edge.cli import _budget, _quantizing
from degmix_edge.cli._output import Output, verb


@click.group()
def command() -> None:
    """Build an engine bundle."""


@command.command("engine")
@click.argument("source", metavar="CHECKPOINT_OR_ONNX_OR_BUNDLE")
@_quantizing.options
@_budget.options
@click.option("--backend", default="auto", show_default=True)
@click.option(
    "--dcn",
    type=click.Choice(["auto", "plugin", "fused", "builtin", "gridsample"]),
    default="auto",
    show_default=True,
    help="TensorRT: the form of deformable convolutions; auto builds each, times it, keeps one.",
)
@click.option("--version-compatible", is_flag=True, help="TensorRT: runs with later versions too.")
@click.option(
    "--hardware-compatible", is_flag=True, help="TensorRT: runs on any card since Ampere."
)
@click.option("--dla-core", type=click.IntRange(0), help="TensorRT on Orin: experimental.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("robot.degmix"), show_default=True
)
@verb
def engine(output: Output, source: str, out: Path, backend: str, **options: Any) -> None:
    """Export, passes, calibration, Q/DQ, engine and golden check in one go.

    SOURCE is a checkpoint (a file, or degmix_tiny), a float ONNX whose outputs are named after
    tasks, or a bundle whose engine is to be built again for this machine.
    """
    from degmix_edge import build as building
    from degmix_edge.backends import EngineOptions

    options["engine"] = EngineOptions(
        **{f.name: options.pop(f.name) for f in dataclasses.fields(EngineOptions)}
    )
    clock = building.Clock(lambda stage: _say(output, stage), _Steps(output))
    if (Path(source) / "manifest.json").exists():
        from degmix_edge.bundle import open_bundle

        built = building.rebuild(open_bundle(Path(source)), backend, clock, options["engine"])
    else:
        built = _build(output, source, out, backend, clock, options)
    manifest = built.manifest
    output.say(f"{built.path}: {manifest.precision}, {', '.join(manifest.network.task_names)}")
    output.result(
        {
            "bundle": built.path,
            "precision": manifest.precision,
            "tasks": manifest.network.task_names,
            "size_bytes": built.size_bytes,
            "engines": manifest.engines,
            "stages": clock.stages,
        }
    )


def _build(
    output: Output, source: str, out: Path, backend: str, clock: Any, options: dict[str, Any]
) -> Any:
    from degmix_edge import backends
    from degmix_edge import build as building
    from degmix_edge.bundle import check_target
    from degmix_edge.cli._sources import check_images, check_source, images, network, split_tasks
    from degmix_edge.errors import ConfigError
    from degmix_edge.preprocess import Fit

    tasks = split_tasks(options["tasks"])
    backends.choose(backend, to_build=True).refuse_options(options["engine"])
    check_target(out, force=options["force"])
    check_source(source)
    if options["precision"] == "int8" and not (options["calib"] or options["ranges"]):
        raise ConfigError(
            "--precision int8 needs --calib DIR (a folder of 32 to 128 typical images, or "
            "synthetic:64) "
            "or --ranges"
        )
    if options["calib"]:
        check_images(options["calib"])
    with output.working("export"):
        model, spec = network(source, clock.done, tasks)
    asked = _budget.request(out, options, spec.keep(tasks or spec.task_names))
    fit = Fit(height=spec.height, width=spec.width)
    found = _quantizing.calibration_images(output, options["calib"], fit, options["calib_count"])
    # Without calibration there is no image of the user's: the golden one is a synthetic scene.
    golden = found[0] if found else images("synthetic:1", fit)[0]
    clock.done("images", f"{len(found)} for calibration, golden image {golden.name}")
    return building.build(
        model,
        spec,
        out,
        building.Options(
            precision=options["precision"],
            tasks=tasks,
            backend=backend,
            raw_logits=options["raw_logits"],
            keep_float=options["keep_float"],
            engine=options["engine"],
        ),
        golden_image=golden.fitted(fit),
        calibrate=_quantizing.calibrator(
            output, found, fit, options, Path(f"{out}.calibration.partial")
        ),
        refine=_budget.Refiner(output, asked) if asked else None,
        observer=options["observer"],
        force=options["force"],
        clock=clock,
    )


class _Steps:
    """Says how far a builder is: at most a line for each tenth of a phase."""

    def __init__(self, output: Output) -> None:
        self.output, self.said = output, ("", -1)

    def __call__(self, phase: str, done: int, steps: int) -> None:
        tenth = (phase, 10 * done // max(steps, 1))
        if tenth != self.said:
            self.said = tenth
            self.output.say(f"  {phase}: {done} of {steps}")


def _say(output: Output, stage: Any) -> None:
    output.say(f"{stage.name:<13}{stage.seconds:6.1f} s  {stage.detail}")
