"""`degmix-edge export onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from degmix_edge.cli._output import Output, verb

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint


@click.group()
def command() -> None:
    """Write a checkpoint as ONNX."""


@command.command("onnx")
@click.argument("checkpoint", required=False)
@click.option("--model", help="Export a model with random weights: see `degmix-edge zoo --list`.")
@click.option("--backbone", help="Its backbone, by timm name.")
@click.option("--size", metavar="HxW", help="Its input size, as in 448x672.")
@click.option("--data", help="Data set whose classes it has; default: nyud, else one that fits.")
@click.option("--set", "overrides", multiple=True, metavar="A=VALUE", help="Other model settings.")
@click.option("--seed", default=0, show_default=True, help="Of the random weights.")
@click.option(
    "--tasks", metavar="A,B", help="Of a checkpoint: keep these only. Of --model: its tasks."
)
@click.option("--keep", metavar="A,B", help="Of --model: keep these of its tasks only.")
@click.option("--report", is_flag=True, help="MACs, nodes, bytes and exactness after every step.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("model.onnx"), show_default=True
)
@click.option("--force", is_flag=True, help="Replace --out.")
@verb
def onnx_(output: Output, checkpoint: str | None, out: Path, **options: Any) -> None:
    """Export CHECKPOINT (a file, or degmix_tiny) as float ONNX: image in, logits out.

    The graph is simplified: exact folds of the model, then graph passes. --report shows what each
    gives, against the plain export.
    """
    from degmix_training.export import export, wasteful_size

    from degmix_edge.build import simplify
    from degmix_edge.cli._files import check_file, write_file

    force = options["force"]
    check_file(out, force=force)
    loaded = _network(output, checkpoint, options)
    keep = _kept(loaded, checkpoint, options)
    advice = wasteful_size(loaded)
    if advice:
        output.warn(advice)
    values: dict[str, Any] = {}
    if options["report"]:
        from degmix_edge.cli._export_report import report

        model, values = report(output, loaded, keep)
    else:
        with output.working("export"):
            model = simplify(export(loaded, tasks=keep), keep)
    write_file(out, model.SerializeToString(), force=force)
    outputs = [value.name for value in model.graph.output]
    output.say(f"{out}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB")
    output.say(f"outputs: {', '.join(outputs)}")
    output.result({"out": out, "nodes": len(model.graph.node), "outputs": outputs, **values})


def _network(output: Output, checkpoint: str | None, options: dict[str, Any]) -> Checkpoint:
    from degmix_edge.cli._sources import checkpoint as load

    if (checkpoint is None) == (options["model"] is None):
        raise click.UsageError("give a CHECKPOINT, or --model NAME with --size")
    if checkpoint is not None:
        for name in ("backbone", "size", "data", "overrides", "keep"):
            if options[name]:
                flag = "set" if name == "overrides" else name
                raise click.UsageError(f"--{flag} is for --model; a checkpoint has its own")
        return load(checkpoint)
    from degmix_training.untrained import untrained

    from degmix_edge import config
    from degmix_edge.cli._models import size, specs
    from degmix_edge.cli._sources import split_tasks

    if not options["size"]:
        raise click.UsageError("--model needs --size, as in --size 448x672")
    values = {"backbone": options["backbone"]} if options["backbone"] else {}
    network = config.override(values, options["overrides"])
    _, tasks = specs(split_tasks(options["tasks"]), options["data"])
    output.warn(f"--model {options['model']}: random weights, seed {options['seed']}")
    return untrained(options["model"], network, tasks, size(options["size"]), options["seed"])


def _kept(loaded: Checkpoint, checkpoint: str | None, options: dict[str, Any]) -> tuple[str, ...]:
    """Names of the outputs to keep.

    Raises:
        ConfigError: The network does not have one.
    """
    from degmix_training.export import network_spec

    from degmix_edge.cli._sources import split_tasks

    spec = network_spec(loaded)
    asked = split_tasks(options["tasks"] if checkpoint is not None else options["keep"])
    kept: tuple[str, ...] = spec.keep(asked or spec.task_names).task_names
    return kept
