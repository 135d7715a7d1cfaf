"""`degmix-edge serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._build_options import given
from degmix_edge.cli._types import BACKEND, PATH, SIZE
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Run"


@verb(
    "serve robot.degmix --replicas 2",
    "serve robot.degmix --host 0.0.0.0 --port 8000 --deadline 500 --queue 64",
)
@click.argument("bundle", type=PATH)
@click.option("--host", help="The address to listen at. [default: 127.0.0.1]")
@click.option("--port", type=int, help="0 takes a free one. [default: 8000]")
@click.option("--replicas", type=int, help="Processes with a session each. [default: 1]")
@click.option("--max-replicas", type=int, help="Add replicas up to so many while images wait.")
@click.option("--threads", type=int, help="Of each replica. [default: CPUs / replicas]")
@click.option("--queue", type=int, help="Images that may wait; more are refused. [default: 32]")
@click.option("--deadline", "deadline_ms", type=float, help="In ms, where a request has none.")
@click.option("--batch-wait", "batch_wait_ms", type=float, help="In ms. [default: 5]")
@click.option("--metrics-port", type=int, help="Of Prometheus metrics. [default: a free one]")
@click.option("--backend", type=BACKEND, help="[default: auto]")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
def command(output: Output, bundle: Path, **options: Any) -> None:
    """Serve BUNDLE over HTTP until Ctrl-C: images in, maps out, on Ray Serve.

    POST an image to URL/maps?tasks=A,B&deadline_ms=200. /healthz, /readyz and Prometheus metrics
    are for those who watch it; `degmix-edge bench --url URL` loads it.
    """
    from degmix_edge.workflows.serve import serve

    with serve(bundle, **given(options)) as server:
        output.say(f"{server.url}: serving {bundle}; metrics: {server.metrics_url}")
        output.result(vars(server))
        server.wait()
    output.say("the server has stopped")
