"""Lane markings: one class a pixel, in colours that drivers expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from degmix_edge.tasks import Task, TaskSpec

CLASSES = ("background", "left", "right")
PALETTE = ((0, 0, 0), (255, 200, 0), (0, 90, 255))


@dataclass(frozen=True)
class LaneTask(Task):
    """A task whose colours are its own."""

    def spec(self, classes: Sequence[str] = ()) -> TaskSpec:
        """This task for one network: always with its own class names and colours."""
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
