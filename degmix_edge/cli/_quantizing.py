"""Options and calibration that `build engine` and `quantize` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--precision --calib --ranges --observer --tasks --keep-float --raw-logits --force`."""
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
                help="Images to calibrate INT8 with: a folder, or synthetic:64.",
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
                help="min_max, percentile or mse.",
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


def calibration_images(output: Output, calib: str | None, fit: Fit) -> list[NamedImage]:
    """The images that `--calib` names; a warning where they are few."""
    from degmix_edge.cli._sources import images

    if calib is None:
        return []
    found = images(calib, fit, split="train")
    if len(found) < FEW:
        output.warn(
            f"--calib {calib}: {len(found)} images; ranges from fewer than {FEW} miss what "
            "the robot "
            f"will see. 32 to 128 typical ones do"
        )
    return found


def calibrator(
    output: Output, found: Sequence[NamedImage], fit: Fit, observer: str, ranges: Path | None
) -> Calibrate | None:
    """How a build gets its ranges: from a file, from images, or not at all."""
    from degmix_calibration import observers
    from degmix_calibration.collect import collect, graph_hash

    from degmix_edge.quant.ranges import read

    observers.find(observer)
    if ranges is not None:
        return lambda model, tensors: read(ranges, graph_hash(model))
    if not found:
        return None

    def calibrate(model: onnx.ModelProto, tensors: Sequence[str]) -> Ranges:
        with output.progress("calibrate", len(found)) as advance:
            pairs = ((item.name, item.fitted(fit)) for item in found)
            found_ranges: Ranges = collect(model, tensors, pairs, observer, advance=advance)
            return found_ranges

    return calibrate
