"""How far the network trusts another map, from 0 to 1."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="confidence",
    title="Confidence",
    decode="sigmoid",
    num_channels=1,
    unit="probability",
    metric="mean_error",
)
