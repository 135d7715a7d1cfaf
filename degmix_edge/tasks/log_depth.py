"""Depth from a network that gives its natural logarithm."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="log_depth",
    title="Depth from log depth",
    decode="exp",
    num_channels=1,
    unit="m",
    metric="rmse",
)
