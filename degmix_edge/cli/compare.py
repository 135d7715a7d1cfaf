"""`degmix-edge compare`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from degmix_edge.cli._output import Output, verb

if TYPE_CHECKING:
    from degmix_edge.compare import Comparison, Recorded
    from degmix_edge.runtime import Session

TENSOR_IMAGES = 4
"""Tensors are compared on this many images: four show what a hundred would."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("checkpoint", required=False)
@click.option(
    "--data",
    default="synthetic:64",
    show_default=True,
    help="Labelled data set (held-out split): nyud:DIR, folder:DIR, synthetic:64; a folder of "
    "images; or photos.",
)
@click.option(
    "--max-drop", default=2.0, show_default=True, help="With labels: percent of PyTorch's value."
)
@click.option(
    "--max-disagreement", default=10.0, show_default=True, help="Without labels: percent."
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="One, or several in one table: onnxruntime,tensorrt.",
)
@click.option("--threads", type=click.IntRange(1))
@click.option(
    "--save-results",
    type=click.Path(path_type=Path),
    help="On a robot, without PyTorch: keep what the engine gives for --data, and compare nothing.",
)
@click.option(
    "--load-results",
    type=click.Path(path_type=Path),
    help="On a desktop: compare what --save-results kept, instead of an engine that runs here.",
)
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
    save_results: Path | None,
    load_results: Path | None,
) -> None:
    """Compare BUNDLE with the PyTorch CHECKPOINT that it was built from; the worst task decides.

    Exit code 13 when a task is out of tolerance. CHECKPOINT may be left out for a shipped one.
    """
    if save_results is not None:
        _save(output, bundle, data, backend, threads, save_results)
        return
    from degmix_edge.bundle import open_bundle
    from degmix_edge.cli._sources import images
    from degmix_edge.cli._torch import reference
    from degmix_edge.compare import Recorded, compare, tensor_differences
    from degmix_edge.errors import AccuracyError
    from degmix_edge.runtime import load

    opened = open_bundle(bundle)
    torch_session = reference(opened, checkpoint, threads)
    specs = {task.name: task for task in opened.manifest.network.tasks}
    found = images(data, opened.manifest.fit, specs=specs, warn=output.warn)
    compared: dict[str, Comparison] = {}
    with contextlib.ExitStack() as open_sessions:
        engines: dict[str, Session | Recorded] = {}
        if load_results is not None:
            recorded = Recorded(load_results, opened)
            engines[f"{recorded.name}, recorded"] = recorded
        else:
            for name in backend.split(","):
                session = open_sessions.enter_context(load(opened, backend=name, threads=threads))
                engines[session.backend.name] = session
        # After all engines are open: a backend that is not there is said before any work.
        tensors = tensor_differences(
            opened,
            torch_session.backend,
            [item.fitted(opened.manifest.fit) for item in found[:TENSOR_IMAGES]],
        )
        for name, engine in engines.items():
            with output.progress(f"compare {name}", len(found)) as advance:
                compared[name] = compare(
                    engine,
                    torch_session,
                    (item.load() for item in found),
                    tensors,
                    max_drop=max_drop / 100,
                    max_disagreement=max_disagreement / 100,
                    advance=advance,
                )
    torch_session.close()
    show(output, compared, opened.manifest.precision, data)
    first = next(iter(compared.values()))
    output.result(
        {"bundle": bundle, "data": data, "comparison": first, "engines": compared}
        if len(compared) > 1
        else {"bundle": bundle, "data": data, "comparison": first}
    )
    failed = {name: c.verdict for name, c in compared.items() if not c.passed}
    if failed:
        raise AccuracyError("; ".join(f"{name}: {verdict}" for name, verdict in failed.items()))


def _save(
    output: Output, bundle: Path, data: str, backend: str, threads: int | None, target: Path
) -> None:
    from degmix_edge.bundle import open_bundle
    from degmix_edge.cli._sources import images
    from degmix_edge.compare import save_results
    from degmix_edge.runtime import load

    opened = open_bundle(bundle)
    found = images(data, opened.manifest.fit)
    with load(opened, backend=backend, threads=threads) as session:
        with output.progress("run", len(found)) as advance:
            save_results(session, [item.image for item in found], target, advance)
        name = session.backend.name
    output.say(
        f"{target}: {len(found)} images through {name}. On a desktop: degmix-edge compare {bundle} "
        f"--data {data} --load-results {target}"
    )
    output.result({"results": target, "images": len(found), "backend": name})


def show(output: Output, compared: dict[str, Comparison], precision: str, data: str) -> None:
    """Tensors of model.onnx, then every engine beside PyTorch, and each verdict."""
    first = next(iter(compared.values()))
    output.table(
        f"model.onnx ({precision}) against PyTorch, tensors",
        ["tensor", "max, relative", "mean, relative", "equal classes"],
        [[t.name, f"{t.relative:.1e}", f"{t.mean:.1e}", _share(t.equal)] for t in first.tensors],
    )
    columns = ["task", "metric", "PyTorch"]
    for name in compared:
        columns += [name, "worse by", "on PyTorch"]
    rows = []
    for i, task in enumerate(first.tasks):
        row = [task.task, f"{task.metric} [{task.unit}]", _number(task.reference)]
        for comparison in compared.values():
            t = comparison.tasks[i]
            drop = "-" if t.drop is None else f"{100 * t.drop:+.2f} %"
            row += [_number(t.value), drop, _number(t.agreement)]
        rows.append(row)
    output.table(
        f"engines ({precision}) against PyTorch and labels, {first.images} images of {data}",
        columns,
        rows,
    )
    for name, comparison in compared.items():
        output.say(f"{name}: {comparison.verdict}" if len(compared) > 1 else comparison.verdict)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3f} %"
