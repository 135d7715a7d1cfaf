"""`degmix-edge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from degmix_edge.cli._output import Output, verb

if TYPE_CHECKING:
    from degmix_edge.bench import Result


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("checkpoint", required=False)
@click.option("--data", default="photos", show_default=True, help="Images to cycle through.")
@click.option("--against", type=click.Choice(["torch"]), help="Time PyTorch eager in the same run.")
@click.option("--calls", default=100, show_default=True, type=click.IntRange(1))
@click.option("--rate", type=float, help="Offer this many images a second, as a camera does.")
@click.option("--threads", type=click.IntRange(1), help="For both; default: all cores.")
@click.option("--backend", default="auto", show_default=True)
@verb
def command(
    output: Output,
    bundle: Path,
    checkpoint: str | None,
    data: str,
    against: str | None,
    calls: int,
    rate: float | None,
    threads: int | None,
    backend: str,
) -> None:
    """Time BUNDLE: pre, net, post and total, p50/p90/p99, contestants alternating in one run."""
    from degmix_edge.bench import bench, machine
    from degmix_edge.bundle import open_bundle
    from degmix_edge.cli._sources import images
    from degmix_edge.cli._torch import reference
    from degmix_edge.runtime import load

    opened = open_bundle(bundle)
    manifest = opened.manifest
    name = f"engine {manifest.precision}"
    sessions = {name: load(opened, backend=backend, threads=threads)}
    if against:
        sessions["PyTorch eager"] = reference(opened, checkpoint, threads)
    pictures = [item.image for item in images(data, manifest.fit)]
    try:
        with output.progress("bench", calls * len(sessions)) as advance:
            results = bench(sessions, pictures, calls=calls, rate=rate, advance=advance)
    finally:
        for session in sessions.values():
            session.close()
    where = machine()
    show(output, results, f"{bundle} on {where['cpu']}, {where['cores']} cores")
    values: dict[str, object] = {"bundle": bundle, "results": results, "machine": where}
    if against:
        ratio = results["PyTorch eager"].median_net_ms / results[name].median_net_ms
        output.say(f"engine call: {ratio:.2f}x faster than PyTorch eager (medians, one run)")
        values["speedup_net"] = ratio
    output.result(values)


def show(output: Output, results: dict[str, Result], title: str) -> None:
    """One row a contestant and part."""
    rows = [
        [name if part == "pre_ms" else "", part.removesuffix("_ms")]
        + [f"{result.percentiles[part][p]:.2f}" for p in ("p50", "p90", "p99", "max")]
        for name, result in results.items()
        for part in result.percentiles
    ]
    output.table(title, ["", "part", "p50 ms", "p90 ms", "p99 ms", "max ms"], rows)
