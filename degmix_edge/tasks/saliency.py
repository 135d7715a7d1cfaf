"""Saliency: the probability that a pixel belongs to the object that people look at first."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="saliency",
    title="Saliency",
    decode="foreground",
    num_channels=2,
    unit="probability",
    metric="max_f",
)
