"""Surface normals in the camera's optical frame: x right, y down, z forward (ROS REP-103)."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="normals",
    title="Surface normals",
    decode="unit_vector",
    num_channels=3,
    unit="unit vector, x right, y down, z forward",
    metric="mean_angle",
)
