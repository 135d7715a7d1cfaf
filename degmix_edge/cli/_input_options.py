"""The options that say how a network of another program wants its input."""

from __future__ import annotations

import click

TRIPLE = (float, float, float)
INPUT = [
    click.option("--mean", type=TRIPLE, default=None, help="Of an ONNX file's input, by channel."),
    click.option("--std", type=TRIPLE, default=None, help="Of an ONNX file's input, by channel."),
    click.option("--scale", type=int, default=1, help="Its value of white: 1 or 255."),
    click.option("--color", type=click.Choice(["rgb", "bgr"]), default="rgb", help="Its channels."),
]
