"""Human part segmentation: background and six parts, grouped as in PASCAL-Context."""

from degmix_edge.tasks._base import Task

TASK = Task(
    name="human_parts",
    title="Human parts",
    decode="argmax",
    num_channels=None,
    unit="class",
    metric="miou",
    classes=(
        "background",
        "head",
        "torso",
        "upper_arm",
        "lower_arm",
        "upper_leg",
        "lower_leg",
    ),
    family="parts",
)
