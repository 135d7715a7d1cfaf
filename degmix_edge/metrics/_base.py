"""What a metric is: counts that pool over a data set, and one number at the end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from degmix_edge.errors import ConfigError, ShapeError

IGNORE, WIDE_IGNORE = 255, 65535
"""Target values of a pixel that is not scored, by the number of classes: see `ignored`."""


class Metric(ABC):
    """One number for one task over a whole data set.

    Counts are pooled over all pixels of all updates; nothing is averaged an image, so neither the
    batch size nor the order changes the result.

    Attributes:
        name: The file's name.
        title: What people read.
        unit: Unit of the number.
        higher_is_better: Whether a larger number is a better network.
        whole: What a difference is a fraction of, where lower is better and there are no labels;
            None is the mean magnitude of the maps.
        counts: Attributes that hold all that was seen, as sums over images: numbers or arrays. A
            metric without them cannot be merged.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    whole: ClassVar[float | None] = None
    counts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_channels: int = 1) -> None:
        """Start empty. `num_channels` is the number of classes, where the task has classes."""
        self.num_channels = num_channels

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count one map `(H, W)` or a batch `(N, H, W)`; vectors have a last axis of 3.

        Args:
            prediction: A decoded map, as `TaskSpec.map_spec` describes it.
            target: The labels, or another network's decoded map, of the same shape.

        Raises:
            ShapeError: The shapes differ, or are not those of a map.
        """
        if prediction.shape != target.shape:
            raise ShapeError(
                f"{self.name}: got a prediction of shape {prediction.shape} and a target of shape "
                f"{target.shape}, expected one shape; resize the prediction to the target"
            )
        self._add(prediction, target)

    @abstractmethod
    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count maps whose shapes are known to be equal."""

    @abstractmethod
    def compute(self) -> float:
        """The number over everything seen so far; nan when no valid pixel was seen."""

    def state(self) -> dict[str, np.ndarray]:
        """Return all that was seen, by the names of `counts`, for `merge` of another metric.

        Raises:
            ConfigError: The metric names no counts.
        """
        if not self.counts:
            raise ConfigError(
                f"metric {self.name!r}: names no `counts`, so its parts cannot be merged; list the "
                "attributes that hold its sums"
            )
        return {name: np.array(getattr(self, name)) for name in self.counts}

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        """Add what another metric of the same settings has seen.

        Counts are exact, and sums are those of one metric that saw everything, up to the rounding
        of one addition for each merge.

        Args:
            state: What `state` of the other gave.

        Raises:
            ShapeError: It is the state of another metric, or of one with other settings.
        """
        own = self.state()
        theirs = {name: np.asarray(value) for name, value in state.items()}
        shapes = [{name: v.shape for name, v in one.items()} for one in (own, theirs)]
        if shapes[0] != shapes[1]:
            want, got = (", ".join(f"{n} {shape}" for n, shape in s.items()) for s in shapes)
            raise ShapeError(f"{self.name}: got a state of {got}, expected {want}")
        for name, value in own.items():
            total = value + theirs[name]
            setattr(self, name, total if total.ndim else total.item())


def ignored(num_classes: int) -> int:
    """Return the label of a pixel that is not scored: 255, or 65535 for more than 255 classes."""
    return IGNORE if num_classes <= IGNORE else WIDE_IGNORE


def binary(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(positive, valid)` masks of a binary label or of a probability map.

    255 and NaN are not valid. Anything else is positive from 0.5 on, so that labels 0 and 1 and
    another network's probabilities both do. A mask of 0 and 255 must be divided by 255 first.
    """
    valid = (target != IGNORE) & ~np.isnan(target)
    return valid & (target >= 0.5), valid


def f_measure(precision: float, recall: float, beta2: float = 1.0) -> float:
    """Weighted harmonic mean in percent; 0 where both are 0."""
    total = beta2 * precision + recall
    return 100 * (1 + beta2) * precision * recall / total if total else 0.0


def relative_drop(metric: type[Metric], reference: float, value: float) -> float:
    """How much worse `value` is than `reference`, as a fraction of `reference`; positive is worse.

    With a reference of 0, an equal value drops by 0 and any other by plus or minus infinity. A
    reference that is no finite number measured nothing: nan. A NaN value against a finite reference
    is a network that broke: infinity, so that no `drop <= tolerance` lets it pass.
    """
    if not math.isfinite(reference):
        return math.nan
    if math.isnan(value):
        return math.inf
    worse = reference - value if metric.higher_is_better else value - reference
    if worse == 0:
        return 0.0
    return worse / abs(reference) if reference else math.copysign(math.inf, worse)
