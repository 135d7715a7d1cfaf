"""Standard deviation of another map, from a network that gives the logarithm of its variance."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="uncertainty",
    title="Uncertainty",
    decode="standard_deviation",
    num_channels=1,
    unit="m",
    metric="mean_error",
)
