"""`degmix-edge quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli import _budget, _quantizing
from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("source", metavar="CHECKPOINT_OR_ONNX")
@_quantizing.options
@_budget.options
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("model.int8.onnx"), show_default=True
)
@verb
def command(output: Output, source: str, out: Path, **options: Any) -> None:
    """Write the quantized ONNX, its recipe and its ranges, without building an engine.

    Beside OUT come OUT.recipe.yaml, OUT.ranges.json, which can be given to --ranges next time, and
    OUT.ranges.svg, which shows how the ranges settled. An interrupted calibration goes on where it
    was.
    """
    from degmix_edge import build as building
    from degmix_edge import config
    from degmix_edge.cli._files import check_file, write_file
    from degmix_edge.cli._sources import check_images, network, split_tasks
    from degmix_edge.errors import ConfigError
    from degmix_edge.passes._base import to_graph
    from degmix_edge.preprocess import Fit
    from degmix_edge.quant.recipe import choose
    from degmix_edge.quant.sites import observed_tensors
    from degmix_edge.report.figures import convergence

    tasks, force = split_tasks(options["tasks"]), options["force"]
    check_file(out, force=force)
    clock = building.Clock(
        lambda stage: output.say(f"{stage.name:<13}{stage.seconds:6.1f} s  {stage.detail}")
    )
    if options["calib"]:
        check_images(options["calib"])
    with output.working("export"):
        model, spec = network(source, clock.done, tasks)
    settings = building.Options(
        precision=options["precision"], tasks=tasks, raw_logits=options["raw_logits"]
    )
    asked = _budget.request(out, options, spec.keep(tasks or spec.task_names))
    deployed, spec, detail = building.deploy(model, spec, settings)
    clock.done("passes", detail)
    graph = to_graph(deployed)
    recipe = choose(
        graph,
        spec,
        options["precision"],
        observer=options["observer"],
        keep_float=options["keep_float"],
    )
    ranges = None
    if options["precision"] == "int8":
        fit = Fit(height=spec.height, width=spec.width)
        count = options["calib_count"]
        found = _quantizing.calibration_images(output, options["calib"], fit, count)
        state = Path(f"{out}.calibration.partial")
        measure = _quantizing.calibrator(output, found, fit, options, state)
        if measure is None:
            raise ConfigError("--precision int8 needs --calib DIR or --ranges")
        ranges = measure(deployed, observed_tensors(graph, recipe))
        clock.done("calibrate", f"{len(ranges.tensors)} tensors over {len(ranges.images)} images")
    refine = _budget.Refiner(output, asked) if asked and ranges is not None else None
    if refine is not None and ranges is not None:
        recipe = refine(deployed, spec, recipe, ranges)
        clock.done("budget", f"{len(recipe.nodes('int8'))} nodes in INT8")
    final = building.quantize(deployed, recipe, ranges, spec)
    files = {
        out: final.SerializeToString(),
        Path(f"{out}.recipe.yaml"): config.dump(recipe).encode(),
    }
    if ranges is not None:
        files[Path(f"{out}.ranges.json")] = ranges.model_dump_json(indent=1).encode()
        if len(ranges.convergence) > 1:
            files[Path(f"{out}.ranges.svg")] = convergence(ranges).encode()
    for path, data in files.items():
        write_file(path, data, force=force or path != out)
    clock.done("quantize", f"{out} {len(files[out]) / 1e6:.1f} MB")
    counts = {p: len(recipe.nodes(p)) for p in ("fp32", "fp16", "int8")}
    values = {"out": out, "nodes": counts, "files": list(files), "stages": clock.stages}
    output.result(values | ({"budget": refine.result} if refine else {}))
