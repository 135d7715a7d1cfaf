"""The precision recipe: each weighted node's precision and its reason, as in `recipe.yaml`."""

from __future__ import annotations

from typing import Literal

from degmix_edge.config import Settings

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Placed = Literal["fp32", "fp16", "bf16", "int8", "int8_weights", "fp8"]
"""`int8_weights`: weights are stored in INT8 and the arithmetic stays float."""

CALIBRATED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions whose values have scales, which calibration measures."""
OVER_BUDGET = "budget: alone it moves "
"""How the reason begins for which a budget search keeps a node in float that would save time."""


class Placement(Settings):
    """One node's precision and its reason."""

    node: str
    op: str
    precision: Placed
    reason: str


class Recipe(Settings):
    """The precision of every node that could be quantized.

    Attributes:
        precision: The precision that was requested for the whole graph.
        observer: Entry of `degmix_calibration.observers` that chose the ranges; only for int8.
        placements: The precision of each node, in graph order.
    """

    precision: Precision
    observer: str | None = None
    placements: tuple[Placement, ...] = ()

    def nodes(self, precision: Placed) -> set[str]:
        """Return the names of the nodes that have this precision."""
        return {place.node for place in self.placements if place.precision == precision}
