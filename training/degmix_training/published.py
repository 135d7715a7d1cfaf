"""What authors and others print, to stand beside measured figures with its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LABEL = "authors' README"


@dataclass(frozen=True)
class Published:
    """One printed row.

    Attributes:
        values: Metric and value by task, in the papers' column order; a task without one is absent.
        source: Who prints it.
    """

    data: str
    model: str
    backbone: str
    values: dict[str, tuple[str, float]]
    source: str


@cache
def rows() -> tuple[Published, ...]:
    """All rows."""
    content = _content()
    return tuple(
        Published(
            row["data"],
            row["model"],
            row["backbone"],
            {
                task: (metric, value)
                for (task, metric), value in zip(
                    content["columns"][row["data"]].items(), row["values"], strict=True
                )
                if value is not None
            },
            row.get("source", LABEL),
        )
        for row in content["rows"]
    )


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    return content


def columns(data: str) -> dict[str, str]:
    """The papers' tasks of a data set in their order, with metrics; empty for other data sets."""
    content: dict[str, Any] = _content()
    return dict(content["columns"].get(data, {}))


def find(data: str, model: str, backbone: str) -> Published | None:
    """The row of a network; the backbone is a timm name."""
    for row in rows():
        if (row.data, row.model) == (data, model) and backbone.startswith(row.backbone):
            return row
    return None
