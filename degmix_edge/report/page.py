"""A report as one HTML string, with its pictures inside and without scripts or downloads."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from degmix_edge.tasks import TaskSpec

JPEG_QUALITY = 85


@dataclass(frozen=True)
class Table:
    """A table of text; `bad` holds the indices of the rows that are out of tolerance."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    bad: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One way to see an image: every task's map as a picture `(H, W, 3)` uint8."""

    label: str
    pictures: dict[str, np.ndarray]


@dataclass(frozen=True)
class Panel:
    """One image `(H, W, 3)` uint8 and its rows; all pictures have the image's size."""

    name: str
    note: str
    image: np.ndarray
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Figure:
    """A figure with its title and an explanation; a function of `figures` returns `html`."""

    title: str
    note: str
    html: str


@dataclass(frozen=True)
class Report:
    """Everything on the page, in the order in which readers need it."""

    title: str
    verdict: str
    passed: bool
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    tasks: tuple[TaskSpec, ...]
    panels: tuple[Panel, ...]
    commands: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...] = ()


def render(report: Report) -> str:
    """Return the page, which any browser can open from disk."""
    template = resources.files("degmix_edge.report").joinpath("page.html").read_text()
    parts = {
        "title": escape(report.title),
        "verdict": escape(report.verdict),
        "state": "passed" if report.passed else "failed",
        "facts": _facts(report.facts),
        "tables": "\n".join([*map(_table, report.tables), *map(_figure, report.figures)]),
        "pictures_link": '<a href="#pictures">Pictures</a>' if report.panels else "",
        "pictures": _pictures(report) if report.panels else "",
        "commands": "\n".join(
            f"<dt>{escape(what)}</dt><dd><code>{escape(line)}</code></dd>"
            for what, line in report.commands
        ),
    }
    for key, text in parts.items():
        template = template.replace("{{" + key + "}}", text)
    return template


def data_uri(picture: np.ndarray) -> str:
    """Return a picture `(H, W, 3)` uint8 as a data URI, in the smaller of PNG and JPEG.

    PNG is smaller for maps, which are flat, and JPEG for photographs.
    """
    image = Image.fromarray(picture)
    kind, content = "jpeg", _encoded(image, "jpeg", quality=JPEG_QUALITY)
    # The smallest PNG takes a tenth of a second, so a quick one tells whether it can win at all.
    if len(_encoded(image, "png", compress_level=1)) < 4 * len(content):
        png = _encoded(image, "png", optimize=True)
        if len(png) <= len(content):
            kind, content = "png", png
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pictures(report: Report) -> str:
    legend = "\n".join(filter(None, map(_legend, report.tasks)))
    panels = "\n".join(_panel(panel, report.tasks) for panel in report.panels)
    return f'<h2 id="pictures">Pictures</h2>\n{legend}\n{panels}'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = "\n".join(
        ('<tr class="bad">' if index in table.bad else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for index, row in enumerate(table.rows)
    )
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<h3>{escape(table.title)}</h3>{note}<div class='wide'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    return f"<h3>{escape(figure.title)}</h3><p>{escape(figure.note)}</p>{figure.html}"


def _legend(task: TaskSpec) -> str:
    chips = "".join(
        f'<span class="chip"><i style="background:rgb{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(task.classes, task.palette, strict=True)
    )
    return f'<p class="legend"><b>{escape(task.name)}</b> {chips}</p>' if chips else ""


def _panel(panel: Panel, tasks: Sequence[TaskSpec]) -> str:
    shown = {name for row in panel.rows for name in row.pictures}
    tasks = [task for task in tasks if task.name in shown]
    heads = "".join(
        f'<th scope="col">{escape(task.name)}<small>{escape(task.unit)}</small></th>'
        for task in tasks
    )
    # The image appears once, before the first row, and is as tall as all rows together.
    image = f'<td rowspan="{len(panel.rows)}">{_picture(panel.image, panel.name)}</td>'
    rows = []
    for row in panel.rows:
        cells = [
            _picture(row.pictures[task.name], f"{panel.name}: {task.name}, {row.label}")
            if task.name in row.pictures
            else ""
            for task in tasks
        ]
        pictures = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr>{image}<th scope="row">{escape(row.label)}</th>{pictures}</tr>')
        image = ""
    note = f"<small>{escape(panel.note)}</small>" if panel.note else ""
    return (
        f'<section class="panel"><h3>{escape(panel.name)} {note}</h3><div class="wide">'
        f'<table class="gallery"><thead><tr><th scope="col">image</th><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _picture(picture: np.ndarray, alt: str) -> str:
    return f'<img src="{data_uri(picture)}" alt="{escape(alt, quote=True)}" loading="lazy">'
