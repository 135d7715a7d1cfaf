"""Heat maps, as of centres and keypoints: one probability for each kind of point."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="heatmap",
    title="Heat maps",
    decode="sigmoid",
    num_channels=None,
    unit="probability",
    metric="mean_error",
)
