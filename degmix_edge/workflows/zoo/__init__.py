"""A zoo: train several networks the same way, build and score each, compare them in one table."""

from __future__ import annotations

from degmix_edge.workflows.zoo.result import Baseline, ZooResult, ZooRow
from degmix_edge.workflows.zoo.run import zoo

__all__ = ["Baseline", "ZooResult", "ZooRow", "zoo"]
