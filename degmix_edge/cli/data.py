"""`degmix-edge data check`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import Group, verb
from degmix_edge.terminal import Output

GROUP = "Train"


@click.group(cls=Group)
def command() -> None:
    """Check labelled data sets: NYUD-v2, PASCAL-Context, Cityscapes, your own folder."""


@verb("data check NYUDv2", of=command)
@click.argument("root", metavar="DIR_OR_ARCHIVE", type=PATH)
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
    from degmix_edge.workflows.check_data import check_data

    found = check_data(root)
    output.show(found.text())
    output.result(found.values())
    found.check()
