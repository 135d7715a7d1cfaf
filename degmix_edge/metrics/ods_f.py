"""F-measure of boundaries at the best threshold of the data set, as edge detectors publish it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from degmix_edge.errors import ConfigError, InputError, ShapeError
from degmix_edge.metrics import _base
from degmix_edge.metrics._boundary_counts import Counts, CountsCache, Settings
from degmix_edge.metrics._counting_queue import CountingQueue, Image

TOLERANCES = {"nyud": 0.011, "pascal_context": 0.0075}
"""Share of the image's diagonal that a boundary may be off, by data set, as published."""
THRESHOLDS = (0.001, *(i / 100 for i in range(1, 100)), 0.999)
"""101 thresholds: 0.001, then 0.01 to 0.99 in hundredths, then 0.999."""
ROUNDING = 1e-3
"""How far outside 0 to 1 a probability may be before it is refused."""


class Metric(_base.Metric):
    """odsF: F1 of thinned boundaries, matched one to one, at the best threshold, in percent.

    For each image, the probability is rounded to 8 bits, as published pipelines save it, and
    reduced to its ridges by `_ridges.suppress`. For each threshold it is cut (a pixel counts from
    the threshold on), thinned to lines by `_thinning.thin` and matched one to one with the thinned
    labels. Two pixels match when their centres are at most `tolerance` of the image's diagonal
    apart. Counts of predicted, true and matched pixels are pooled over the data set, and the best F
    of all thresholds is the result. There is no interpolation between thresholds.

    This has **not** been run **against the published toolkits** (SEISM and the BSDS code, MATLAB).
    Numbers will not be the same to the last digit; ports of that code quote 0.1 points:

    - BSDS's `correspondPixels` finds a matching of least cost in a graph that it completes with
      random outlier edges, each costlier than any real one; so it too has as many real matches as
      possible, except for what the random edges do. Here the largest matching is found exactly.
      All matchings of one size give one F, so distances need no minimising. Because pixels match
      one to one, there are as many matched predicted pixels as matched true ones. pyEdgeEval
      0.2.8, a port of that code, found 0.04 to 0.07 % fewer pairs on six random maps.
    - Some pipelines round to 8 bits again after the suppression, or cut with `>` in place of `>=`;
      this does neither. Some first smooth the probability itself with a triangle of radius 1,
      which `smooth` does.
    - The orientation follows the published formula, whose tangent is that of the Hessian's main
      direction squared; `_ridges.suppress` explains it.

    The tolerance is not rounded up: below one pixel (an image whose diagonal is under 91 pixels at
    0.011), only the same pixel matches. Maps must be cropped to the image: padding, even with label
    255, moves the frame and lengthens the diagonal.

    The target is binary, and 255 is ignored: both maps are emptied there before anything else. A
    target of probabilities (another network's map, where there are no labels) is cut at 0.5. A NaN
    predicts nothing. If the target has no boundary at all, the result is 100 if no threshold leaves
    a predicted pixel either, else 0.

    Images are counted in other processes. A script must allow for that by starting its work under
    `if __name__ == "__main__":`, or by `workers=1`. Only waiting images are held in memory.
    """

    name = "ods_f"
    title = "odsF"
    unit = "%"
    higher_is_better = True
    counts = ("predicted", "matched", "true", "valid")

    def __init__(
        self,
        num_channels: int = 1,
        *,
        tolerance: float = TOLERANCES["nyud"],
        thresholds: Sequence[float] | np.ndarray | None = None,
        nms: bool = True,
        smooth: bool = False,
        workers: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """Start empty.

        Args:
            num_channels: Unused; every metric has it.
            tolerance: Share of the diagonal; `TOLERANCES` has the published ones.
            thresholds: Where to cut, each above 0 and at most 1; `THRESHOLDS` if None.
            nms: Whether to suppress what is no ridge; False for maps that already are lines.
            smooth: Whether the suppression first smooths the probability, as pyEdgeEval does it.
            workers: Number of processes. None takes one for each processor, and none for little
                work; 1 counts in this process.
            cache: Folder that keeps every image's counts, so that a run that was stopped resumes
                there. A changed map, label or setting is counted again.

        Raises:
            ConfigError: A setting is out of range.
            OutputError: The cache cannot be made.
        """
        super().__init__(num_channels)
        values = THRESHOLDS if thresholds is None else tuple(float(t) for t in thresholds)
        _check_settings(values, tolerance, workers)
        ordered = tuple(sorted(set(values)))
        self.settings = Settings(ordered, float(tolerance), bool(nms), bool(smooth))
        self.cache = None if cache is None else CountsCache(cache, self.settings)
        self.predicted = np.zeros(len(self.settings.thresholds), np.int64)
        self.matched = np.zeros_like(self.predicted)
        self.true = self.valid = 0
        self._queue = CountingQueue(self.settings, workers)
        self._finished = 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        if target.ndim < 2:
            raise ShapeError(
                f"ods_f: got maps of shape {target.shape}, expected (H, W) or (N, H, W)"
            )
        maps = (-1, *target.shape[-2:]) if target.size else (0, 1, 1)
        for scores, labels in zip(prediction.reshape(maps), target.reshape(maps), strict=True):
            true, valid = _base.binary(labels)
            image = Image(eight_bit(scores, valid), true)
            self.valid += int(np.count_nonzero(valid))
            if self.cache is not None:
                image.file = self.cache.file(image.scores, image.true)
                cached = self.cache.load(image.file)
                if cached is not None:
                    self._pool_counts(cached)
                    continue
            self._queue.add(image, self._finish)

    def compute(self, advance: Callable[[int], object] | None = None) -> float:
        """F1 at the best threshold in percent, 0 to 100; nan when no valid pixel was seen.

        Args:
            advance: Called with the number of images that were finished since its last call; the
                sum of all is the number of images seen.

        Raises:
            BackendError: A worker process died.
        """
        self._tell(advance)

        def finish(image: Image, counts: Counts) -> None:
            self._finish(image, counts)
            self._tell(advance)

        self._queue.drain(finish)
        if not self.valid:
            return float("nan")
        if not self.true:
            return 0.0 if self.predicted.any() else 100.0
        return float(self.curve()[2].max())

    def state(self) -> dict[str, np.ndarray]:
        """Return the counts of all images, after those that wait were counted.

        Raises:
            BackendError: A worker process died.
        """
        self._queue.drain(self._finish)
        return super().state()

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall (0 to 1) and F (percent) per threshold, of all that was computed."""
        precision = self.matched / np.maximum(self.predicted, 1)
        recall = self.matched / max(self.true, 1)
        pairs = zip(precision, recall, strict=True)
        return precision, recall, np.array([_base.f_measure(p, r) for p, r in pairs])

    def _finish(self, image: Image, counts: Counts) -> None:
        if self.cache is not None and image.file is not None:
            self.cache.save(image.file, counts)
        self._pool_counts(counts)

    def _pool_counts(self, counts: Counts) -> None:
        self.predicted += counts.predicted
        self.matched += counts.matched
        self.true += counts.true
        self._finished += 1

    def _tell(self, advance: Callable[[int], object] | None) -> None:
        if advance is not None and self._finished:
            advance(self._finished)
        self._finished = 0


def _check_settings(thresholds: tuple[float, ...], tolerance: float, workers: int | None) -> None:
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise ConfigError(
            f"ods_f: got thresholds {thresholds}, expected one or more, each above 0 and at most "
            f"1; leave them out for the {len(THRESHOLDS)} published ones"
        )
    if not 0 < tolerance < 1:
        published = ", ".join(f"{value} for {name}" for name, value in TOLERANCES.items())
        raise ConfigError(
            f"ods_f: got tolerance {tolerance}, expected a share of the diagonal between 0 and "
            f"1, not pixels; published are {published}"
        )
    if workers is not None and workers < 1:
        raise ConfigError(
            f"ods_f: got {workers} workers, expected 1 or more; leave it out for one a processor"
        )


def eight_bit(prediction: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Round probabilities to uint8, 1 as 255; 0 where a pixel is not valid or is NaN.

    Raises:
        InputError: A valid pixel is no probability.
    """
    scores = np.where(valid & ~np.isnan(prediction), prediction, 0).astype(np.float64)
    low, high = (scores.min(), scores.max()) if scores.size else (0.0, 0.0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(
            f"ods_f: got a prediction from {low:.6g} to {high:.6g}, expected probabilities 0 to 1; "
            f"apply the sigmoid to scores, divide 8 bit images by 255"
        )
    # Half up, as image writers do it.
    return np.floor(np.clip(scores, 0, 1) * 255 + 0.5).astype(np.uint8)
