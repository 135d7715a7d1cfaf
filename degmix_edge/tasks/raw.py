"""Any tensor, passed through as it is: boxes, scores, or what no other task describes."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="raw",
    title="Raw tensor",
    decode="raw",
    num_channels=None,
    unit="",
    metric="mean_error",
)
