"""The options of `build engine` that are asked of a backend."""

from __future__ import annotations

import click

from degmix_edge.cli._types import BACKEND

ENGINE = [
    click.option("--share-weights", is_flag=True, help="Write weights of both graphs once."),
    click.option("--backend", type=BACKEND, metavar="NAME", default="auto", show_default=True),
    click.option(
        "--dcn",
        type=click.Choice(["auto", "plugin", "offsets", "builtin", "gridsample"]),
        default="auto",
        show_default=True,
        help="TensorRT: the form of deformable convolutions; auto times each.",
    ),
    click.option(
        "--version-compatible", is_flag=True, help="TensorRT: runs with later versions too."
    ),
    click.option(
        "--hardware-compatible", is_flag=True, help="TensorRT: runs on any card since Ampere."
    ),
    click.option("--dla-core", type=click.IntRange(0), help="TensorRT on Orin: experimental."),
    click.option(
        "--split",
        is_flag=True,
        help="ONNX Runtime: a call can run any subset of the tasks, each at its own rate. For "
        "checkpoints of DeMT, DeMTG and DeGMix; `inspect` says what that saves.",
    ),
]
