"""What the authors print in their READMEs, to stand beside measured figures under that name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LABEL = "authors' README"


@dataclass(frozen=True)
class Published:
    """One row of a README: the metric and the value by task, in the papers' column order."""

    data: str
    model: str
    backbone: str
    values: dict[str, tuple[str, float]]


@cache
def rows() -> tuple[Published, ...]:
    """All rows."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
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
            },
        )
        for row in content["rows"]
    )


def columns(data: str) -> dict[str, str]:
    """The papers' tasks of a data set in their order, with metrics; empty for other data sets."""
    return {t: m for row in rows() if row.data == data for t, (m, _) in row.values.items()}


def find(data: str, model: str, backbone: str) -> Published | None:
    """The row of a network; the backbone is a timm name."""
    for row in rows():
        if (row.data, row.model) == (data, model) and backbone.startswith(row.backbone):
            return row
    return None
