"""`degmix-edge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli._build_options import given
from degmix_edge.cli._types import BACKEND, NAME_OR_FILE, PATH, SIZE, TASKS
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Judge"
OF_STREAMS = ("source", "seconds", "rates", "deadline_ms", "idle_s", "record", "compare", "force")
OF_SERVERS = ("url", "images", "rate", "seconds", "deadline_ms", "tasks")


@verb(
    "bench robot.degmix --against torch",
    "bench robot.degmix --rate 30 --source synthetic --seconds 30 --record now.json",
    "bench --url http://127.0.0.1:8000 --rate 20 --seconds 60",
)
@click.argument("bundle", type=PATH, required=False)
@click.argument("checkpoint", type=NAME_OR_FILE, required=False)
@click.option("--url", help="Load a server of `degmix-edge serve` instead of BUNDLE.")
@click.option("--tasks", type=TASKS, help="Ask a server for these tasks only.")
@click.option("--data", "images", help="Images to cycle through. [default: photos]")
@click.option(
    "--against", type=click.Choice(["torch", "onnx"]), help="Time CHECKPOINT in the same run."
)
@click.option("--calls", default=100, type=click.IntRange(1))
@click.option("--rate", type=float, help="Offer this many images a second, as a camera does.")
@click.option("--source", help="Run a stream on this: a camera, a recording, synthetic.")
@click.option("--seconds", type=float, help="Run a stream for so long. [default: 30]")
@click.option("--rates", metavar="TASK=HZ,...", help="Run these tasks at these rates.")
@click.option("--deadline", "deadline_ms", type=float, help="In ms. [default: one period]")
@click.option("--idle", "idle_s", type=float, help="Time the first call after so many seconds.")
@click.option("--record", type=PATH, help="Write the stream's figures, by ros2_benchmark's keys.")
@click.option("--compare", type=PATH, help="Compare the stream with such a file.")
@click.option("--force", is_flag=True, help="Replace --record.")
@click.option("--size", type=SIZE, help="Of a bundle with several sizes, as in 448x672.")
@click.option("--threads", type=click.IntRange(1), help="Of each contestant.")
@click.option("--backend", type=BACKEND, default="auto")
def command(output: Output, bundle: Path | None, **options: Any) -> None:
    """Time BUNDLE: pre, net, post and total, p50/p90/p99, contestants alternating in one run.

    With --source or --seconds, run a stream at a camera's rate and say what it achieves, what it
    misses and why, how old its results are, and what it takes of the machine. With --url, offer
    images to a server at --rate, and say how it answers.
    """
    typed = given(options)
    if "url" in typed:
        _server(output, bundle, typed)
        return
    if bundle is None:
        context = click.get_current_context()
        raise click.MissingParameter(ctx=context, param_hint="'BUNDLE'", param_type="argument")
    if "tasks" in typed:
        raise click.UsageError("tasks goes with --url only")
    if not any(name in typed for name in OF_STREAMS):
        _calls(output, bundle, typed)
        return
    for name in ("checkpoint", "against", "calls"):
        if name in typed:
            raise click.UsageError(f"{name} does not go with a stream")
    _stream(output, bundle, typed)


def _calls(output: Output, bundle: Path, typed: dict[str, Any]) -> None:
    from degmix_edge.workflows.bench import bench, latency_table, machine, speedup

    results = bench(bundle, **typed)
    where = machine()
    output.table(*latency_table(results, f"{bundle} on {where['cpu']}, {where['cores']} cores"))
    values: dict[str, object] = {"bundle": bundle, "results": results, "machine": where}
    if (ratio := speedup(results)) is not None:
        output.say(f"engine call: {ratio:.2f}x faster than {[*results][1]} (medians, one run)")
        values["speedup_net"] = ratio
    output.result(values)


def _server(output: Output, bundle: Path | None, typed: dict[str, Any]) -> None:
    from degmix_edge.workflows.bench_url import bench_url

    wrong = [name for name in typed if name not in OF_SERVERS]
    if bundle is not None or wrong:
        raise click.UsageError(f"{wrong[0] if wrong else 'BUNDLE'} does not go with --url")
    found = bench_url(**typed)
    output.show(found.text())
    output.result({"server": found})


def _stream(output: Output, bundle: Path, typed: dict[str, Any]) -> None:
    from degmix_edge.workflows.bench_record import recorded_run
    from degmix_edge.workflows.bench_report import stream_text

    result, comparison = recorded_run(bundle, **typed)
    output.show(stream_text(result, comparison))
    output.result({"bundle": bundle, "stream": result, "comparison": comparison})
