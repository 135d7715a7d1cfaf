"""Optical flow: how far each pixel moves, to the right and down."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="flow",
    title="Optical flow",
    decode="identity",
    num_channels=2,
    unit="px, x right, y down",
    metric="epe",
)
