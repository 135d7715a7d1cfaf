"""Scores of parts of a data set, with the interval in which each probably lies."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_edge.metrics import Metric, Tally, ignored, interval
from degmix_edge.registry import unknown
from degmix_edge.tasks import TaskSpec

SLICES = ("folder", "time", "brightness", "class")
"""What a data set can be cut by."""
BRIGHTNESS = ((0.25, "dark"), (0.5, "medium"), (1.01, "bright"))
"""The mean grey value, from 0 to 1, below which an image is called so."""
SEED = 0
_TIME = re.compile(r"\d{16,19}")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Facts:
    """What an image is found by.

    Attributes:
        name: Its name, with its folders.
        brightness: Its mean grey value, from 0 to 1.
        classes: Classes that its labels have, as `semseg=floor`.
    """

    name: str
    brightness: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class SliceScore:
    """The scores of some images.

    Attributes:
        slice: What they have in common, such as `brightness=dark`; `all` is every image.
        images: How many there are.
        values: By task, the metric over them.
        intervals: By task, where the metric of such a set lies with a probability of 95 %, by
            bootstrap over images; empty where nothing was drawn.
        calibration: The expected calibration error in percent, by task that has one.
    """

    slice: str
    images: int
    values: dict[str, float]
    intervals: dict[str, Interval]
    calibration: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """How a comparison is cut into parts.

    Attributes:
        slices: Names out of `SLICES`.
        draws: Bootstrap sets for each interval; 0 gives none.
        names: Names of the images, where there are slices.
    """

    slices: tuple[str, ...] = ()
    draws: int = 0
    names: tuple[str, ...] = ()


NO_CUT = Cut()
"""One part with all images, and no interval."""


class Tallies:
    """The counts of several tasks, image by image.

    Args:
        metrics: By task, an empty metric.
        calibration: By task, an empty metric of how calibrated the network is.

    Attributes:
        facts: What each image is found by, in order.
        tasks: By task, the counts of each image.
        calibration: By task, the counts of each image.
    """

    def __init__(
        self, metrics: Mapping[str, Metric], calibration: Mapping[str, Metric] | None = None
    ) -> None:
        self.facts: list[Facts] = []
        self.tasks = {task: Tally(metric) for task, metric in metrics.items()}
        self.calibration = {t: Tally(metric) for t, metric in (calibration or {}).items()}

    def add(
        self,
        facts: Facts,
        maps: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray],
        certainty: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Count the next image.

        Args:
            facts: What it is found by.
            maps: By task.
            labels: Those that it has, by task.
            certainty: By task of `calibration`, what the metric `ece` takes.
        """
        self.facts.append(facts)
        for task, tally in self.tasks.items():
            tally.add(maps[task], labels.get(task))
        for task, tally in self.calibration.items():
            tally.add((certainty or {})[task], labels.get(task))

    def merge(self, other: Tallies) -> None:
        """Append the images that another process has counted."""
        self.facts += other.facts
        for task, tally in self.tasks.items():
            tally.merge(other.tasks[task])
        for task, tally in self.calibration.items():
            tally.merge(other.calibration[task])

    def scores(self, slices: Sequence[str] = (), draws: int = 0) -> list[SliceScore]:
        """Return the scores of all images, and of each slice of every kind in `slices`.

        Args:
            slices: Names out of `SLICES`.
            draws: Bootstrap sets of each slice; 0 gives no intervals.
        """
        parts = {"all": list(range(len(self.facts))), **slices_of(self.facts, slices)}
        return [
            SliceScore(
                name,
                len(rows),
                {task: tally.value(rows) for task, tally in self.tasks.items()},
                {
                    task: interval(tally.draws(draws, SEED, rows))
                    for task, tally in self.tasks.items()
                    if draws
                },
                {task: tally.value(rows) for task, tally in self.calibration.items()},
            )
            for name, rows in parts.items()
        ]


def facts_of(
    name: str, image: np.ndarray, labels: Mapping[str, np.ndarray], specs: Mapping[str, TaskSpec]
) -> Facts:
    """Return what an image is found by.

    Args:
        name: Its name.
        image: Its pixels, uint8 `(H, W, 3)`.
        labels: Its labels by task.
        specs: The tasks, whose classes have names.
    """
    found = []
    for task, label in labels.items():
        spec = specs.get(task)
        if spec is not None and spec.has_labels:
            present = np.unique(label[label != ignored(spec.num_channels)])
            found += [f"{task}={spec.classes[index]}" for index in present if spec.classes]
    return Facts(name, float(image.mean(dtype=np.float64)) / 255, tuple(found))


def parse_slices(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return kinds of slices, given as a sequence or as one text with commas.

    Raises:
        ConfigError: There is no such kind.
    """
    parts = text.split(",") if isinstance(text, str) else text
    kinds = tuple(part.strip() for part in parts if part.strip())
    for kind in kinds:
        if kind not in SLICES:
            raise ConfigError(unknown("kind of slice", kind, SLICES))
    return kinds


def slices_of(facts: Sequence[Facts], kinds: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of the images of each slice, by `KIND=VALUE`, sorted.

    An image is in one folder, one hour of the day and one brightness, and in a slice of every class
    that it has. Where names hold no folder or time, there are no such slices.

    Args:
        facts: Facts of each image.
        kinds: Names out of `SLICES`.
    """
    found: dict[str, list[int]] = {}
    for kind in kinds:
        own: dict[str, list[int]] = {}
        for row, one in enumerate(facts):
            for value in _values(one, kind):
                own.setdefault(f"{kind}={value}", []).append(row)
        found |= dict(sorted(own.items()))
    return found


def _values(facts: Facts, kind: str) -> Sequence[str]:
    if kind == "class":
        return facts.classes
    if kind == "brightness":
        return [next(word for bound, word in BRIGHTNESS if facts.brightness < bound)]
    folder, _, last = facts.name.rpartition("/")
    if kind == "folder":
        return [folder] if folder else []
    match = _TIME.search(last)
    if match is None:
        return []
    moment = datetime.datetime.fromtimestamp(int(match[0][:10]), datetime.timezone.utc)
    return [f"{moment.hour:02}h"]
