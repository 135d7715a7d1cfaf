"""Lane markings: a task of its own, with classes and colours that drivers expect."""

from collections.abc import Sequence
from dataclasses import dataclass

from degmix_edge.tasks import Task, TaskSpec

CLASSES = ("background", "left", "right")
PALETTE = ((0, 0, 0), (255, 200, 0), (0, 90, 255))


@dataclass(frozen=True)
class LaneTask(Task):
    """A task whose colours are its own."""

    def spec(self, classes: Sequence[str] = ()) -> TaskSpec:
        """This task for one network."""
        return super().spec(CLASSES).model_copy(update={"palette": PALETTE})


TASK = LaneTask(
    name="lane",
    title="Lane markings",
    decode="argmax",
    num_channels=len(CLASSES),
    unit="class",
    metric="lane_f",
    classes=CLASSES,
)
