"""Counts of one image's boundary pixels at every threshold, and the folder that keeps them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from degmix_edge.errors import OutputError
from degmix_edge.files import write_file
from degmix_edge.metrics._matching import Matching, within
from degmix_edge.metrics._ridges import suppress
from degmix_edge.metrics._thinning import thin

VERSION = 1
"""Part of every cache key: raise it when the same input gives other counts."""


@dataclass(frozen=True)
class Settings:
    """What the counts of an image depend on, apart from its maps.

    Attributes:
        thresholds: Where to cut, in ascending order.
        tolerance: Largest distance of a match as a share of the image's diagonal.
        nms: Whether to suppress what is no ridge.
        smooth: Whether the suppression smooths the probability first.
    """

    thresholds: tuple[float, ...]
    tolerance: float
    nms: bool
    smooth: bool = False


@dataclass(frozen=True)
class Counts:
    """Numbers of pixels in one image: predicted and matched for each threshold, and true ones."""

    predicted: list[int]
    matched: list[int]
    true: int


def count(scores: np.ndarray, true: np.ndarray, settings: Settings) -> Counts:
    """Count the predicted and the matched pixels of one image at each threshold.

    Args:
        scores: `(H, W)` uint8 probabilities.
        true: `(H, W)` bool boundary, not yet thin.
        settings: Thresholds, tolerance and whether to suppress.
    """
    strength = suppress(scores, smooth=settings.smooth) if settings.nms else scores / 255
    truth = thin(true)
    candidates = np.flatnonzero(strength >= settings.thresholds[0])
    values = strength.ravel()[candidates]
    radius = settings.tolerance * math.hypot(*true.shape)
    start, neighbours = within(candidates, truth, radius)
    matching = Matching(start, neighbours, int(np.count_nonzero(truth)))
    predicted: list[int] = []
    matched: list[int] = []
    before = -1
    for threshold in reversed(settings.thresholds):
        above = values >= threshold
        size = int(np.count_nonzero(above))
        # Each step has all pixels of the step before, so an equal number means the same pixels.
        if size == before:
            predicted.append(predicted[-1])
            matched.append(matched[-1])
            continue
        before = size
        mask = np.zeros(true.size, bool)
        mask[candidates[above]] = True
        lines = thin(mask.reshape(true.shape)).ravel()[candidates]
        predicted.append(int(np.count_nonzero(lines)))
        matched.append(matching.largest(lines))
    return Counts(predicted[::-1], matched[::-1], int(np.count_nonzero(truth)))


class CountsCache:
    """A folder with one JSON file for each image that was counted.

    A file's name is a digest of the maps and the settings, so a changed map, label or setting is
    counted again.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Make the folder.

        Raises:
            OutputError: It cannot be made.
        """
        self.folder, self.settings = folder, settings
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"ods_f: cannot make the cache {folder}: {error.strerror}; expected a folder "
                f"that can be written; name another one"
            ) from None

    def file(self, scores: np.ndarray, true: np.ndarray) -> Path:
        """Name the file for the counts of `scores` `(H, W)` uint8 and `true` `(H, W)` bool."""
        settings = self.settings
        values = [VERSION, settings.thresholds, settings.tolerance, settings.nms]
        text = json.dumps([*values, "smooth"] if settings.smooth else values)
        digest = hashlib.sha256(f"{text} {true.shape} ".encode())
        digest.update(scores.tobytes())
        digest.update(np.packbits(true).tobytes())
        return self.folder / f"{digest.hexdigest()}.json"

    def load(self, file: Path) -> Counts | None:
        """Read the counts in `file`; None if there is no such file, or if it is damaged."""
        try:
            values = json.loads(file.read_text())
            predicted, matched = (
                [int(n) for n in values[name]] for name in ("predicted", "matched")
            )
            counts = Counts(predicted, matched, int(values["true"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        is_whole = len(counts.predicted) == len(counts.matched) == len(self.settings.thresholds)
        return counts if is_whole else None

    def save(self, file: Path, counts: Counts) -> None:
        """Write the counts in one step, so that no reader sees half a file.

        Raises:
            OutputError: The file cannot be written.
        """
        try:
            write_file(file, json.dumps(vars(counts)).encode(), force=True)
        except OutputError as error:
            raise OutputError(f"ods_f: {error}; or name another cache") from None
