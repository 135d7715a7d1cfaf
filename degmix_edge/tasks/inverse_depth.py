"""Depth from a network that gives its inverse; without a scale it is relative."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="inverse_depth",
    title="Depth from inverse depth",
    decode="reciprocal",
    num_channels=1,
    unit="m",
    metric="rmse",
)
