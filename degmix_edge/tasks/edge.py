"""Boundaries: the probability that a pixel lies on an occlusion or crease edge."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="edge",
    title="Boundaries",
    decode="sigmoid",
    num_channels=1,
    unit="probability",
    metric="edge_f",
)
