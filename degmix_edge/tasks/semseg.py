"""Semantic segmentation: one class per pixel; the data set defines the classes."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="semseg",
    title="Semantic segmentation",
    decode="argmax",
    num_channels=None,
    unit="class",
    metric="miou",
)
