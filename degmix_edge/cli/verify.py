"""`degmix-edge verify`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output, verb


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True)
@verb
def command(output: Output, bundle: Path, backend: str) -> None:
    """Check every file's hash, then run the golden image and compare with the golden maps."""
    from degmix_edge.bundle import GOLDEN, open_bundle
    from degmix_edge.errors import AccuracyError
    from degmix_edge.golden import differences, unpack
    from degmix_edge.runtime import load

    opened = open_bundle(bundle)
    output.say(f"{len(opened.manifest.files)} files have the hashes that the manifest says")
    image, want = unpack(opened.file(GOLDEN).read_bytes(), bundle)
    with load(opened, backend=backend) as session:
        found = differences(session.spec, want, session.backend.infer(image[None]))
    output.say(f"golden image: {found.text}")
    output.result({"bundle": bundle, "files": len(opened.manifest.files), "golden": found})
    if not found.passed:
        raise AccuracyError(
            f"{bundle}: gives other maps here than where it was built: {found.text}"
        )
    output.say("verified")
