"""Semantic segmentation: one class a pixel. The classes are the data set's."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="semseg",
    title="Semantic segmentation",
    decode="argmax",
    num_channels=None,
    unit="class",
    metric="miou",
)
