"""`degmix-edge compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from degmix_edge.cli._output import Output, verb

if TYPE_CHECKING:
    from degmix_edge.compare import Comparison

TENSOR_IMAGES = 4
"""Tensors are compared on this many images: four show what a hundred would."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("checkpoint", required=False)
@click.option(
    "--data",
    default="synthetic:64",
    show_default=True,
    help="Labelled data set (held-out split), a folder of images, or photos.",
)
@click.option(
    "--max-drop", default=2.0, show_default=True, help="With labels: percent of PyTorch's value."
)
@click.option(
    "--max-disagreement", default=10.0, show_default=True, help="Without labels: percent."
)
@click.option("--backend", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1))
@verb
def command(
    output: Output,
    bundle: Path,
    checkpoint: str | None,
    data: str,
    max_drop: float,
    max_disagreement: float,
    backend: str,
    threads: int | None,
) -> None:
    """Compare BUNDLE with the PyTorch CHECKPOINT that it was built from; the worst task decides.

    Exit code 13 when a task is out of tolerance. CHECKPOINT may be left out for a shipped one.
    """
    from degmix_edge.bundle import open_bundle
    from degmix_edge.cli._sources import images
    from degmix_edge.cli._torch import reference
    from degmix_edge.compare import compare, tensor_differences
    from degmix_edge.errors import AccuracyError
    from degmix_edge.runtime import load

    opened = open_bundle(bundle)
    torch_session = reference(opened, checkpoint, threads)
    found = images(data, opened.manifest.fit)
    with load(opened, backend=backend, threads=threads) as session:
        tensors = tensor_differences(
            opened,
            torch_session.backend,
            [item.fitted(opened.manifest.fit) for item in found[:TENSOR_IMAGES]],
        )
        with output.progress("compare", len(found)) as advance:
            comparison = compare(
                session,
                torch_session,
                ((item.image, item.labels) for item in found),
                tensors,
                max_drop=max_drop / 100,
                max_disagreement=max_disagreement / 100,
                advance=advance,
            )
    torch_session.close()
    show(output, comparison, opened.manifest.precision, data)
    output.result({"bundle": bundle, "data": data, "comparison": comparison})
    if not comparison.passed:
        raise AccuracyError(comparison.verdict)


def show(output: Output, comparison: Comparison, precision: str, data: str) -> None:
    """Both tables and the verdict."""
    output.table(
        f"model.onnx ({precision}) against PyTorch, tensors",
        ["tensor", "max, relative", "mean, relative", "equal classes"],
        [
            [t.name, f"{t.relative:.1e}", f"{t.mean:.1e}", _share(t.equal)]
            for t in comparison.tensors
        ],
    )
    output.table(
        f"engine ({precision}) against PyTorch and labels, {comparison.images} images of {data}",
        ["task", "metric", "PyTorch", "engine", "worse by", "engine on PyTorch"],
        [
            [
                t.task,
                f"{t.metric} [{t.unit}]",
                _number(t.reference),
                _number(t.value),
                "-" if t.drop is None else f"{100 * t.drop:+.2f} %",
                _number(t.agreement),
            ]
            for t in comparison.tasks
        ],
    )
    output.say(comparison.verdict)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f} %"
