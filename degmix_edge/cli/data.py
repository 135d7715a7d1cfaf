"""`degmix-edge data check`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._output import Output
from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import Group, example, verb

GROUP = "Train"
EXAMPLE = example("data check NYUDv2")


@click.group(cls=Group)
def command() -> None:
    """Check labelled data sets: NYUD-v2, PASCAL-Context, Cityscapes, your own folder."""


@command.command(epilog=EXAMPLE)
@click.argument("root", metavar="DIR_OR_ARCHIVE", type=PATH)
@verb
def check(output: Output, root: Path) -> None:
    """Read every file of a data set, count and check it, and say in words what is wrong.

    DIR is known by its layout. An archive (.tar, .tar.gz, .zip) is read to its end, not unpacked.

    \b
    Layout of your own data (see degmix_training/data/folder.py):
      DIR/classes.yaml          semseg: [road, car, ...]
      DIR/label_map.yaml        semseg: {7: road, 0: ignored}, where labels have other ids
      DIR/train/images/NAME.png     also .jpg
      DIR/train/TASK/NAME.png       classes, 0/255 masks, 16-bit millimetres, normals as colours
      DIR/train/TASK/NAME.npy       depth in metres, normals (H, W, 3)
      DIR/val/...
    """
    from degmix_training.data import _check

    from degmix_edge.errors import InputError
    from degmix_edge.progress import counting, working

    if root.is_file():
        with working(f"read {root.name}"):
            count = _check.check_archive(root)
        output.say(f"{root}: whole, {count} files")
        output.result({"archive": root, "files": count})
        return
    source = _check.detect(root)
    total = sum(len(source.ids(split)) for split in source.splits())
    with counting("check", total) as advance:
        report = _check.check(source, advance)
    layout = getattr(source, "layout", "")
    output.table(
        f"{root}: {source.title}" + (f", layout {layout}" if layout else ""),
        ["split", "what", "expected", "found", "missing", "bad", "values", "invalid"],
        [row.cells() for row in report.rows],
    )
    for note in report.notes:
        output.warn(note)
    for finding in report.findings:
        output.say(finding)
    output.result({"root": root, "layout": layout, "report": report})
    if report.findings:
        raise InputError(f"{root}: {len(report.findings)} findings, see above")
    output.say("nothing is wrong")
