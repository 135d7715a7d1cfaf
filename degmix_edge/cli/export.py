"""`degmix-edge export onnx`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb


@click.group()
def command() -> None:
    """Write a checkpoint as ONNX."""


@command.command("onnx")
@click.argument("checkpoint")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("model.onnx"), show_default=True
)
@click.option("--force", is_flag=True, help="Replace --out.")
@verb
def onnx_(output: Output, checkpoint: str, out: Path, force: bool) -> None:
    """Export CHECKPOINT (a file, or degmix_tiny) as float ONNX: image in, logits out."""
    from degmix_training.export import export

    from degmix_edge.cli._files import check_file, write_file
    from degmix_edge.cli._sources import checkpoint as load

    check_file(out, force=force)
    loaded = load(checkpoint)
    with output.working("export"):
        model = export(loaded)
    write_file(out, model.SerializeToString(), force=force)
    outputs = [value.name for value in model.graph.output]
    output.say(f"{out}: {len(model.graph.node)} nodes, {model.ByteSize() / 1e6:.1f} MB")
    output.say(f"outputs: {', '.join(outputs)}")
    output.result({"out": out, "nodes": len(model.graph.node), "outputs": outputs})
