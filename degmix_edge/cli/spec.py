"""`degmix-edge spec`: describe a network of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from degmix_edge.cli import _build_options
from degmix_edge.cli._input_options import INPUT
from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import Group, options, verb
from degmix_edge.terminal import Output

GROUP = "Build"


@click.group(cls=Group)
def command() -> None:
    """Describe an ONNX file of another program: its input, its tasks, its classes."""


@verb("spec init mine.onnx", of=command, name="init")
@click.argument("model", type=PATH)
@click.option("--out", type=PATH, help="The spec. [default: MODEL.spec.yaml beside MODEL]")
@click.option("--force", is_flag=True, help="Replace --out.")
def init(output: Output, model: Path, out: Path | None, force: bool) -> None:
    """Write a first draft of MODEL's spec, from the names and shapes of its tensors.

    What was guessed is marked in the file. What nothing in MODEL tells, such as how its input is
    normalised, is left for you to say.
    """
    from degmix_edge.files import write_file
    from degmix_edge.workflows.spec_draft import draft_spec

    draft = draft_spec(model)
    out = out or model.with_suffix(".spec.yaml")
    write_file(out, draft.text.encode(), force=force)
    output.say(f"{out}: guessed {', '.join(draft.guessed) or 'nothing'}")
    output.say(f"to be said by you: {', '.join(draft.missing) or 'nothing'}")
    output.result({"out": out, "guessed": draft.guessed, "missing": draft.missing})


@verb("spec check mine.onnx --spec mine.spec.yaml photo.jpg", of=command, name="check")
@click.argument("model", type=PATH)
@click.argument("image", type=PATH)
@options(INPUT)
@click.option("--out", type=PATH, default=Path("spec.png"))
@click.option("--force", is_flag=True, help="Replace --out.")
def check(
    output: Output, model: Path, image: Path, *, out: Path, force: bool, **options: Any
) -> None:
    """Run MODEL on IMAGE as its spec says, and draw what the network sees and what it says."""
    import io

    from degmix_edge.files import check_file, write_file
    from degmix_edge.report.spec_sheet import spec_sheet
    from degmix_edge.workflows.spec_check import check_spec

    check_file(out, force=force)
    found = check_spec(model, image, **_build_options.given(options))
    picture = io.BytesIO()
    spec_sheet(found.sees, found.maps, found.numbers).save(picture, "PNG")
    write_file(out, picture.getvalue(), force=force)
    output.show(found.text())
    output.say(f"{out}: what the network sees and says")
    values = {"network": found.network, "maps": found.numbers, "doubts": found.doubts, "out": out}
    output.result(values)


@verb("spec embed mine.onnx mine.spec.yaml --out new.onnx", of=command, name="embed")
@click.argument("model", type=PATH)
@click.argument("spec", type=PATH)
@click.option("--out", type=PATH, required=True, help="The ONNX file with the spec inside.")
@click.option("--force", is_flag=True, help="Replace --out.")
def embed(output: Output, model: Path, spec: Path, out: Path, force: bool) -> None:
    """Write MODEL with SPEC inside, so that it describes itself."""
    from degmix_edge.workflows.spec_check import embed_spec

    embed_spec(model, spec, out, force=force)
    output.say(f"{out}: {model} with {spec} inside")
    output.result({"out": out})
