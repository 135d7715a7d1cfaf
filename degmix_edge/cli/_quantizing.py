"""Options and calibration that `build engine` and `quantize` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from degmix_edge.cli._output import Output

if TYPE_CHECKING:
    import onnx

    from degmix_edge.build import Calibrate
    from degmix_edge.cli._sources import NamedImage
    from degmix_edge.preprocess import Fit
    from degmix_edge.quant.ranges import Ranges

FEW = 8
OBSERVER = "mse"
COUNT = 64
STILL = 0.05
"""Ranges that move by less than this share have settled."""


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What decides a quantized graph: precision, calibration, tasks, what stays float."""
    for option in reversed(
        [
            click.option(
                "--precision",
                type=click.Choice(["fp32", "fp16", "int8"]),
                default="int8",
                show_default=True,
            ),
            click.option(
                "--calib",
                metavar="DIR",
                help="Images to calibrate INT8 with: a folder, nyud:DIR, synthetic:64.",
            ),
            click.option(
                "--calib-count",
                type=click.IntRange(0),
                default=COUNT,
                show_default=True,
                help="Of a larger folder, choose this many that differ most; 0 takes all.",
            ),
            click.option(
                "--ranges",
                type=click.Path(path_type=Path),
                help="Use this ranges.json instead of calibrating.",
            ),
            click.option(
                "--observer",
                default=OBSERVER,
                show_default=True,
                help="min_max, percentile, entropy or mse.",
            ),
            click.option("--tasks", metavar="A,B", help="Keep these tasks only."),
            click.option(
                "--keep-float", multiple=True, metavar="NODE", help="Keep this node in fp32."
            ),
            click.option("--raw-logits", is_flag=True, help="Keep the logits as outputs too."),
            click.option("--force", is_flag=True, help="Replace --out."),
        ]
    ):
        function = option(function)
    return function


def calibration_images(
    output: Output, calib: str | None, fit: Fit, count: int = COUNT
) -> list[NamedImage]:
    """The images that `--calib` names, at most `count`; a warning where they are few."""
    from degmix_calibration.image_set import choose

    from degmix_edge.cli._sources import images

    if calib is None:
        return []
    found = images(calib, fit, split="train")
    total = len(found)
    if count and total > count and not calib.startswith("synthetic"):
        with output.progress("look at images", total) as advance:
            reads = [lambda item=item: item.image for item in found]
            chosen, duplicates = choose(reads, count, advance=advance)
        found = [found[index] for index in chosen]
        twice = f", {duplicates} duplicates left out" if duplicates else ""
        output.say(f"{len(found)} of {total} images chosen, as different as they come{twice}")
    if len(found) < FEW:
        output.warn(
            f"--calib {calib}: {len(found)} images; ranges from fewer than {FEW} miss what "
            "the robot "
            f"will see. 32 to 128 typical ones do"
        )
    return found


def calibrator(
    output: Output,
    found: Sequence[NamedImage],
    fit: Fit,
    options: Mapping[str, Any],
    state: Path | None = None,
) -> Calibrate | None:
    """How a build gets its ranges: from a file, from images, or not at all.

    Args:
        output: For progress.
        found: The images.
        fit: To the network's size.
        options: `observer` and `ranges`.
        state: An interrupted calibration goes on from this file.
    """
    from degmix_calibration import observers
    from degmix_calibration.collect import collect, graph_hash

    from degmix_edge.cli._sources import FittedImages
    from degmix_edge.quant.ranges import read

    observer, ranges = options["observer"], options.get("ranges")
    observers.find(observer)
    if ranges is not None:
        return lambda model, tensors: read(ranges, graph_hash(model))
    if not found:
        return None

    def calibrate(model: onnx.ModelProto, tensors: Sequence[str]) -> Ranges:
        if state is not None and state.exists():
            output.say(f"{state}: going on with an interrupted calibration")
        with output.progress("calibrate", len(found)) as advance:
            pairs = FittedImages(found, fit)
            measured: Ranges = collect(
                model, tensors, pairs, observer, advance=advance, state=state
            )
        settled = settled_after(measured)
        if settled is None and len(found) > 1:
            output.warn("ranges were still moving with the last images: give more of them")
        return measured

    return calibrate


def settled_after(ranges: Ranges) -> int | None:
    """After how many images the ranges stopped moving, or None: 90 % of them within 5 %."""
    for step in ranges.convergence[:-1]:
        later = [s for s in ranges.convergence if s.images >= step.images]
        if all(s.low >= 1 - STILL and s.high <= 1 + STILL for s in later):
            return step.images
    return None
