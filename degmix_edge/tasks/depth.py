"""Depth in metres along the optical axis; it is z, not the length of the ray."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="depth",
    title="Depth",
    decode="clamp",
    num_channels=1,
    unit="m",
    metric="rmse",
)
