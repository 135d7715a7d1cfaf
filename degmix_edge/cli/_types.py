"""Types of options: names out of a registry, and sizes. They help the shell to complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class Name(click.ParamType[Any]):
    """One name out of a registry, which is looked up when it is needed.

    The workflow checks it, so that a misspelt name gets the same error from Python.
    """

    name = "name"

    def __init__(self, package: str, *extra: str) -> None:
        self.package, self.extra = package, extra

    def names(self) -> Iterable[str]:
        """All names that the registry has."""
        from degmix_edge import registry

        return registry.names(self.package)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that begin with the last part of what is typed."""
        before, comma, part = incomplete.rpartition(",")
        with contextlib.suppress(Exception):  # completion must never fail
            names = [*self.extra, *self.names()]
            return [CompletionItem(f"{before}{comma}{n}") for n in names if n.startswith(part)]
        return []


class Names(Name):
    """Several names with commas between them."""

    name = "A,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split the text."""
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(part.strip() for part in parts if part.strip())


class Device(Name):
    """A device whose rates are known."""

    def names(self) -> Iterable[str]:
        """All devices of the roofline model."""
        from degmix_edge.graph import roofline

        return roofline.devices()


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


PATH = File(path_type=Path)
NAME_OR_FILE = File()
TASKS = Names("degmix_edge.tasks")
BACKEND = Name("degmix_edge.backends", "auto")
BACKENDS = Names("degmix_edge.backends", "auto")
OBSERVER = Name("degmix_calibration.observers")
MODEL = Name("degmix_training.models")
MODELS = Names("degmix_training.models")
DATA_SET = Name("degmix_training.data")
TARGET = Name("degmix_edge.workflows.emit")
DEVICE = Device("", "cpu")
SIZE = Size()
