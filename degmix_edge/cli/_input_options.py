"""The options that say how a network of another program wants its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from degmix_edge.cli._types import PATH, SIZE

BY_CHANNEL = ("--mean", "--std")
"""Options that take a number for each channel, as in `--mean 103.9 116.8 123.7`."""


def joined(arguments: Sequence[str]) -> list[str]:
    """Make one argument of the numbers that follow an option of `BY_CHANNEL`."""
    result: list[str] = []
    count = -1  # of the numbers behind such an option; below zero behind anything else
    for argument in arguments:
        if count >= 0 and _is_number(argument):
            count += 1
            if count > 1:
                result[-1] += f",{argument}"
                continue
        else:
            count = 0 if argument in BY_CHANNEL else -1
        result.append(argument)
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected one number, or one by channel") from None


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    parts = [value.rpartition("=") for value in values]
    if not all(separator and own and kind for own, separator, kind in parts):
        example = "right=image" if param.name == "inputs" else "seg_out=semseg"
        raise click.BadParameter(f"expected {param.make_metavar(ctx)}, as in {example}")
    return {own: kind for own, _, kind in parts}


def _sizes(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """One size as a pair, several as pairs, none as None."""
    return values if len(values) > 1 else next(iter(values), None)


INPUT = [
    click.option("--spec", type=PATH, help="A spec.yaml that describes an ONNX file."),
    click.option(
        "--size",
        type=SIZE,
        multiple=True,
        callback=_sizes,
        help="Input size, as in 448x672, of a checkpoint or an ONNX file with dynamic axes; given "
        "several times, one bundle has all of them.",
    ),
    click.option("--batch", type=int, help="Images of one call. [default: the ONNX file's, or 1]"),
    *(
        click.option(
            name,
            callback=_numbers,
            metavar="NUMBER...",
            help="Of an ONNX file's input: one number, or one by channel.",
        )
        for name in BY_CHANNEL
    ),
    click.option(
        "--scale",
        type=float,
        default=1,
        help="Its value of white, 1 or 255; depth and other numbers are multiplied by it.",
    ),
    click.option(
        "--color",
        type=click.Choice(["rgb", "bgr", "grey", "depth", "other"]),
        help="Its channels; depth and other are no picture.",
    ),
    click.option(
        "--fit",
        "mode",
        type=click.Choice(["letterbox", "stretch", "crop"]),
        default="letterbox",
        help="How images of another shape are fitted.",
    ),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        callback=_pairs,
        metavar="INPUT=KIND",
        help="The kind of an ONNX file's input beside the image: image, map, intrinsics, tensor or "
        "state.",
    ),
    click.option(
        "--map",
        "outputs",
        multiple=True,
        callback=_pairs,
        metavar="OUTPUT=KIND",
        help="The kind of task of an ONNX file's output that is not called after it.",
    ),
]
