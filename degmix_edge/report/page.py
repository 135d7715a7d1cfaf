"""A report as one HTML page that holds its pictures and loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import TYPE_CHECKING

from degmix_edge.errors import BackendError
from degmix_edge.extras import missing_package
from degmix_edge.report.charts import Bars, Group, Plot
from degmix_edge.report.gallery import Gallery

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Table:
    """A table of text, which readers can sort.

    Attributes:
        title, columns, rows: What it shows.
        note: A sentence above it.
        bad: Indices of the rows that are out of tolerance.
        shades: How strongly each cell of a row is coloured, in [0, 1]; None leaves it plain. Empty
            colours nothing.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    bad: tuple[int, ...] = ()
    shades: tuple[tuple[float | None, ...], ...] = ()

    def __post_init__(self) -> None:
        """Check that every row has a cell for every column."""
        assert all(len(row) == len(self.columns) for row in (*self.rows, *self.shades)), self.title


@dataclass(frozen=True)
class Report:
    """Everything on a page, in the order in which it stands there.

    Attributes:
        title: The heading.
        gallery: The pictures, which come first.
        verdict: The result in a sentence.
        passed: Whether it is good; None where there is nothing to pass.
        charts: Groups of charts.
        tables: Tables below the charts.
        facts: What was measured where, by name.
        commands: What each command is for, and the command.
        hint: A sentence above the pictures; empty has a general one.
    """

    title: str
    verdict: str
    passed: bool | None
    gallery: Gallery = field(default_factory=Gallery)
    charts: tuple[Group, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    hint: str = ""


def render(report: Report) -> str:
    """Return the page, which any browser can open from disk.

    Its policy lets it run its own script only, and lets it load nothing.
    """
    templates = resources.files("degmix_edge.report").joinpath("templates")
    script = templates.joinpath("script.js").read_text().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            gallery=report.gallery,
            style=templates.joinpath("style.css").read_text(),
            script=script,
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'",
        )
    )


def check_renderer() -> None:
    """Check before long work that pages can be written.

    Raises:
        BackendError: Jinja2 is not installed.
    """
    if find_spec("jinja2") is None:
        raise missing_package("jinja2", "a report", BackendError)


def standalone_svg(plot: Plot) -> str:
    """Return a chart as an SVG file, for light and dark viewers."""
    return _environment().get_template("plot.svg").render(plot=plot)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("degmix_edge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["bars"] = lambda chart: isinstance(chart, Bars)
    return environment
