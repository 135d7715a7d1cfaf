"""A task that calls itself something else, and no metric."""

from degmix_edge.tasks import Task

TASK = Task(
    name="drizzle",
    title="Rain",
    decode="sigmoid",
    num_channels=1,
    unit="probability",
    metric="max_f",
)
