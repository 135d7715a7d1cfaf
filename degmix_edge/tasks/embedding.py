"""A vector for each pixel, whose direction says what the pixel belongs to."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="embedding",
    title="Embedding",
    decode="unit_vector",
    num_channels=None,
    unit="unit vector",
    metric="mean_angle",
)
