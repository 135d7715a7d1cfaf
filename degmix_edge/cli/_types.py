"""Types of options: names out of a registry, and sizes. They help the shell to complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class Name(click.ParamType[str]):
    """One name, or several with commas, out of a list that is looked up when it is needed.

    The workflow checks it, so that a misspelt name gets the same error from Python.
    """

    name = "name"

    def __init__(self, names: Callable[[], Iterable[str]], extra: tuple[str, ...] = ()) -> None:
        self.names, self.extra = names, extra

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that begin with the last part of what is typed."""
        before, comma, part = incomplete.rpartition(",")
        with contextlib.suppress(Exception):  # completion must never fail
            names = [*self.extra, *self.names()]
            return [CompletionItem(f"{before}{comma}{n}") for n in names if n.startswith(part)]
        return []


class File(click.Path):
    """A path that a file system can have."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the text: it may be empty, or too long for a name."""
        text = os.fspath(value)
        if not text or "\0" in text or any(len(os.fsencode(p)) > 255 for p in text.split("/")):
            self.fail(f"{text[:40]!r}: no file can have this name", param, ctx)
        return super().convert(value, param, ctx)


class Size(click.ParamType[tuple[int, int]]):
    """`448x672` as height and width."""

    name = "HxW"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the text.

        Raises:
            ConfigError: It is no such text.
        """
        from degmix_edge.workflows.models import parse_size

        return value if isinstance(value, tuple) else parse_size(str(value))


def _registered(package: str) -> Callable[[], Iterable[str]]:
    def names() -> Iterable[str]:
        from degmix_edge import registry

        return registry.names(package)

    return names


def _devices() -> Iterable[str]:
    from degmix_edge.graph import roofline

    return roofline.devices()


PATH = File(path_type=Path)
NAME_OR_FILE = File()
TASKS = Name(_registered("degmix_edge.tasks"))
BACKEND = Name(_registered("degmix_edge.backends"), ("auto",))
OBSERVER = Name(_registered("degmix_calibration.observers"))
MODEL = Name(_registered("degmix_training.models"))
DATA_SET = Name(_registered("degmix_training.data"))
TARGET = Name(_registered("degmix_edge.workflows.emit"))
DEVICE = Name(_devices, ("cpu",))
SIZE = Size()
LABEL_MAP = click.option(
    "--label-map",
    type=PATH,
    metavar="FILE",
    help="Of folder:DIR: which class each id of its label files is, as in `semseg: {7: road}`.",
)
