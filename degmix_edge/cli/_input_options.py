"""The options that say how a network of another program wants its input."""

from __future__ import annotations

import click

TRIPLE = (float, float, float)


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    parts = [value.rpartition("=") for value in values]
    if not all(separator and own and task for own, separator, task in parts):
        raise click.BadParameter("expected OUTPUT=TASK, as in seg_out=semseg")
    return {own: task for own, _, task in parts}


INPUT = [
    click.option(
        "--size",
        type=(int, int),
        default=None,
        metavar="HEIGHT WIDTH",
        help="Of an ONNX file's input, where its axes are dynamic.",
    ),
    click.option("--mean", type=TRIPLE, default=None, help="Of an ONNX file's input, by channel."),
    click.option("--std", type=TRIPLE, default=None, help="Of an ONNX file's input, by channel."),
    click.option("--scale", type=int, default=1, help="Its value of white: 1 or 255."),
    click.option("--color", type=click.Choice(["rgb", "bgr"]), default="rgb", help="Its channels."),
    click.option(
        "--map",
        "outputs",
        multiple=True,
        callback=_pairs,
        metavar="OUTPUT=TASK",
        help="The task of an ONNX file's output that is not called after it.",
    ),
]
