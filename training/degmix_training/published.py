"""Published results, which are shown next to measured ones with their source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LABEL = "authors' README"


@dataclass(frozen=True)
class Published:
    """One published row.

    Attributes:
        values: Metric and value by task, in the papers' column order; a task without a value is
            absent.
        source: Where it was published.
    """

    data: str
    model: str
    backbone: str
    values: dict[str, tuple[str, float]]
    source: str


@cache
def rows() -> tuple[Published, ...]:
    """Return every published row."""
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
    """Return the metric of each task that papers report for a data set, in their order.

    The result is empty for a data set without published results.
    """
    content: dict[str, Any] = _content()
    return dict(content["columns"].get(data, {}))


def find(data: str, model: str, backbone: str) -> Published | None:
    """Return the row of a network, or None; `backbone` is a timm name."""
    for row in rows():
        if (row.data, row.model) == (data, model) and backbone.startswith(row.backbone):
            return row
    return None
