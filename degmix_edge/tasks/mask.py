"""Probability that a pixel belongs to one class, such as lane markings or drivable ground."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="mask",
    title="Mask",
    decode="sigmoid",
    num_channels=1,
    unit="probability",
    metric="max_f",
)
