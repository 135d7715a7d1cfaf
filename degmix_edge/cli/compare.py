"""`degmix-edge compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._groups import PARTS
from degmix_edge.cli._types import BACKENDS, NAME_OR_FILE, PATH, SIZE
from degmix_edge.cli._verb import options, verb
from degmix_edge.terminal import Output

GROUP = "Judge"


@verb("compare robot.degmix --data nyud:NYUDv2")
@click.argument("bundle", type=PATH)
@click.argument("checkpoint", type=NAME_OR_FILE, required=False)
@click.option(
    "--data",
    default="synthetic:64",
    help="Labelled data set (held-out split): nyud:DIR, folder:DIR, synthetic:64; a folder of "
    "images; or photos.",
)
@options(PARTS)
@click.option("--max-drop", default=2.0, help="With labels: percent.")
@click.option("--max-disagreement", default=10.0, help="Without: percent.")
@click.option(
    "--backend",
    "backends",
    type=BACKENDS,
    default="auto",
    help="One, or several in one table: onnxruntime,tensorrt.",
)
@click.option("--report", type=PATH, help="Write a page with pictures and charts to this .html.")
@click.option("--force", is_flag=True, help="Replace the report.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--threads", type=click.IntRange(1), help="Of the engine, on a CPU.")
@click.option("--save-results", type=PATH, help="On a robot without PyTorch: only keep the maps.")
@click.option("--load-results", "results", type=PATH, help="On a desktop: compare those maps.")
def command(output: Output, bundle: Path, checkpoint: str | None, **options: Any) -> None:
    """Compare BUNDLE with the CHECKPOINT or ONNX file that it was built from.

    The worst task decides: exit code 13 when one is out of tolerance. CHECKPOINT may be left out
    for a shipped one. An ONNX file runs in its own pre-processing.
    """
    target, force = options.pop("save_results"), options.pop("force")
    if target is not None:
        _record(output, bundle, target, options)
        return
    from degmix_edge.files import check_file
    from degmix_edge.workflows.compare import compare_engines
    from degmix_edge.workflows.comparison import check_all, comparison_text

    report, data = options["report"], options["data"]
    if report is not None:
        check_file(report, force=force)
    limits = {name: options.pop(name) / 100 for name in ("max_drop", "max_disagreement")}
    compared = compare_engines(bundle, checkpoint, **limits, **options)
    output.show(comparison_text(compared, data))
    if report is not None:
        output.say(f"report: {report.absolute().as_uri()}")
    values: dict[str, Any] = {name: c.values() for name, c in compared.items()}
    first = next(iter(values.values()))
    more = {"engines": values} if len(values) > 1 else {}
    output.result({"bundle": bundle, "data": data, "comparison": first, **more})
    check_all(compared)


def _record(output: Output, bundle: Path, target: Path, options: dict[str, Any]) -> None:
    from degmix_edge.workflows.compare import record

    data, backend = options["data"], ",".join(options["backends"])
    settings = {name: options[name] for name in ("size", "threads")}
    count, name = record(bundle, target, data=data, backend=backend, **settings)
    output.say(
        f"{target}: {count} images through {name}. On a desktop: degmix-edge compare {bundle} "
        f"--data {data} --load-results {target}"
    )
    output.result({"results": target, "images": count, "backend": name})
