"""Independent classes, any number of which a pixel may have."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="multi_label",
    title="Multi-label segmentation",
    decode="sigmoid",
    num_channels=None,
    unit="probability",
    metric="mean_error",
)
