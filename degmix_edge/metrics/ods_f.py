"""F-measure of boundaries at the best threshold of the data set, as edge detectors publish it."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

import numpy as np

from degmix_edge.errors import BackendError, ConfigError, InputError, OutputError, ShapeError
from degmix_edge.metrics import _base

TOLERANCES = {"nyud": 0.011, "pascal_context": 0.0075}
"""Share of the image's diagonal that a boundary may be off, by data set, as published."""
THRESHOLDS = (0.001, *(i / 100 for i in range(1, 100)), 0.999)
"""101 thresholds: 0.001, then 0.01 to 0.99 in hundredths, then 0.999."""

SMOOTHING = 4
"""Radius in pixels of the triangle filter that the orientation is taken from."""
SLACK = 1.01
"""A pixel survives unless a neighbour across the line is more than this factor stronger."""
BORDER = 5
"""Width in pixels of the frame in which probabilities fade to 0."""
ROUNDING = 1e-3
"""How far outside 0 to 1 a probability may be before it is no probability."""

VERSION = 1
"""Part of every cache key: raise it when the same input gives other counts."""
SMALL = 1 << 20
"""Pixels that may wait for `compute`. For no more than these, `workers=None` starts no process."""
QUEUE = 4
"""Images waiting per worker before `update` waits."""


class Metric(_base.Metric):
    """odsF: F1 of thinned boundaries, matched one to one, at the best threshold, in percent.

    Of each image: the probability is rounded to 8 bits, as published pipelines save it; thinned by
    `suppress`; for each threshold cut (a pixel counts from the threshold on), thinned to lines by
    `thin` and matched one to one with the thinned labels, two pixels matching when their centres
    are at most `tolerance` of the image's diagonal apart. Counts of predicted, true and matched
    pixels are pooled over the data set, and the best F of all thresholds is the result. There is no
    interpolation between thresholds.

    **Against the published toolkits** (SEISM and the BSDS code, MATLAB) this has not been run.
    Numbers will not be the same to the last digit; ports of that code quote 0.1 points:

    - BSDS's `correspondPixels` finds a matching of least cost in a graph that it makes complete
      with random outlier edges, each costlier than any real one; so it too has as many real matches
      as there can be, but for what the random edges do. Here the largest matching is found exactly.
      All matchings of one size give one F, so distances need no minimising; and one to one, the
      number of matched predicted pixels is that of matched true ones.
    - Some pipelines round to 8 bits again after the suppression, cut with `>` in place of `>=`, or
      smooth the probability itself with a triangle of radius 1 first; this does none of them.
    - The orientation follows the published formula, whose tangent is that of the Hessian's main
      direction squared; see `suppress`.

    The tolerance is not rounded up: below one pixel (an image whose diagonal is under 91 pixels at
    0.011), only the same pixel matches. Maps must be cropped to the image: padding, even with label
    255, moves the frame and lengthens the diagonal.

    The target is binary, 255 is ignored: there both maps are emptied before anything else. A target
    of probabilities (another network's map, where there are no labels) is cut at 0.5. A NaN
    predicts nothing. No boundary in the target at all: 100 if no threshold leaves a predicted pixel
    either, else 0.

    Images are counted in other processes, which a script must allow for by starting its work under
    `if __name__ == "__main__":`, or by `workers=1`. Only images that wait are held in memory.
    """

    name = "ods_f"
    title = "odsF"
    unit = "%"
    higher_is_better = True

    def __init__(
        self,
        num_channels: int = 1,
        *,
        tolerance: float = TOLERANCES["nyud"],
        thresholds: Sequence[float] | np.ndarray | None = None,
        nms: bool = True,
        workers: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """Start empty.

        Args:
            num_channels: Unused; every metric has it.
            tolerance: Share of the diagonal, see `TOLERANCES`.
            thresholds: Where to cut, each above 0 and at most 1; `THRESHOLDS` if None.
            nms: Whether to suppress what is no ridge; False for maps that already are lines.
            workers: Processes. None takes one a processor, and none for little work; 1 counts in
                this process.
            cache: Folder that keeps every image's counts, so that a run that was stopped goes on
                where it was. A changed map, label or setting is counted anew.

        Raises:
            ConfigError: A setting is out of range.
            OutputError: The cache cannot be made.
        """
        super().__init__(num_channels)
        values = THRESHOLDS if thresholds is None else tuple(float(t) for t in thresholds)
        if not values or not all(0 < t <= 1 for t in values):
            raise ConfigError(
                f"ods_f: got thresholds {values}, expected one or more, each above 0 and at most "
                f"1; leave them out for the {len(THRESHOLDS)} published ones"
            )
        if not 0 < tolerance < 1:
            known = ", ".join(f"{value} for {name}" for name, value in TOLERANCES.items())
            raise ConfigError(
                f"ods_f: got tolerance {tolerance}, expected a share of the diagonal between 0 and "
                f"1, not pixels; published are {known}"
            )
        if workers is not None and workers < 1:
            raise ConfigError(
                f"ods_f: got {workers} workers, expected 1 or more; leave it out for one a "
                f"processor"
            )
        self.settings = Settings(tuple(sorted(set(values))), float(tolerance), bool(nms))
        self.workers, self.cache = workers, cache
        if cache is not None:
            try:
                cache.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"ods_f: cannot make the cache {cache}: {error.strerror}; expected a folder "
                    f"that can be written; name another one"
                ) from None
        self.predicted = np.zeros(len(self.settings.thresholds), np.int64)
        self.matched = np.zeros_like(self.predicted)
        self.true = self.valid = 0
        self._waiting: deque[_Image] = deque()
        self._running: deque[tuple[_Image, Future[Counts]]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        self._finished = 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        if target.ndim < 2:
            raise ShapeError(
                f"ods_f: got maps of shape {target.shape}, expected (H, W) or (N, H, W)"
            )
        maps = (-1, *target.shape[-2:]) if target.size else (0, 1, 1)
        for scores, labels in zip(prediction.reshape(maps), target.reshape(maps), strict=True):
            true, valid = _base.binary(labels)
            image = _Image(eight_bit(scores, valid), true)
            self.valid += int(np.count_nonzero(valid))
            if self.cache is not None:
                image.file = self.cache / f"{image.key(self.settings)}.json"
                known = _read(image.file, len(self.predicted))
                if known is not None:
                    self._pool_counts(known)
                    continue
            self._waiting.append(image)
            self._start_some()

    def compute(self, advance: Callable[[int], object] | None = None) -> float:
        """F1 at the best threshold in percent, 0 to 100; nan when no valid pixel was seen.

        Args:
            advance: Called with the number of images that got ready since its last call; the sum of
                all is the number of images seen.

        Raises:
            BackendError: A worker died.
        """
        self._tell(advance)
        while self._waiting or self._running:
            if self._pool is None and not self._wants_pool():
                self._count_here()
            else:
                self._submit()
                self._collect()
            self._tell(advance)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if not self.valid:
            return float("nan")
        if not self.true:
            return 0.0 if self.predicted.any() else 100.0
        return float(self.curve()[2].max())

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall (0 to 1) and F (percent) per threshold, of all that was computed."""
        precision = self.matched / np.maximum(self.predicted, 1)
        recall = self.matched / max(self.true, 1)
        pairs = zip(precision, recall, strict=True)
        return precision, recall, np.array([_base.f_measure(p, r) for p, r in pairs])

    # ---- images on their way ----

    def _wants_pool(self) -> bool:
        """Whether what waits is worth other processes."""
        if self.workers is not None:
            return self.workers > 1
        return (os.cpu_count() or 1) > 1 and self._waiting_pixels() > SMALL

    def _waiting_pixels(self) -> int:
        return sum(image.true.size for image in self._waiting)

    def _start_some(self) -> None:
        """Hand on what waits, so that no more than a bounded number does."""
        if self._pool is not None or self._wants_pool():
            self._submit()
        elif self._waiting_pixels() > SMALL:
            self._count_here()

    def _count_here(self) -> None:
        image = self._waiting.popleft()
        self._finish(image, count(image.scores, image.true, self.settings))

    def _submit(self) -> None:
        """Give the pool all that waits; wait for the oldest while too many are on their way."""
        workers = self.workers or os.cpu_count() or 1
        if self._pool is None:
            # Not fork: torch's threads and CUDA do not outlive it.
            known = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context(
                "forkserver" if "forkserver" in known else "spawn"
            )
            self._pool = ProcessPoolExecutor(workers, context, signal.signal, _IGNORE_CTRL_C)
        while self._waiting:
            if len(self._running) >= QUEUE * workers:
                self._collect()
            image = self._waiting.popleft()
            try:
                future = self._pool.submit(count, image.scores, image.true, self.settings)
            except BrokenProcessPool:
                self._waiting.appendleft(image)
                raise self._broken() from None
            self._running.append((image, future))

    def _collect(self) -> None:
        """Wait for the oldest image."""
        image, future = self._running[0]
        try:
            counts = future.result()
        except BrokenProcessPool:
            raise self._broken() from None
        except BaseException:
            self._drop()
            raise
        self._running.popleft()
        self._finish(image, counts)

    def _drop(self) -> None:
        """End the pool; what was not counted waits again."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        self._waiting.extendleft(image for image, _ in reversed(self._running))
        self._running.clear()

    def _broken(self) -> BackendError:
        self._drop()
        return BackendError(
            "ods_f: a worker process died before it answered, expected it to count one image; call "
            'from a file, under `if __name__ == "__main__":`, look for a lack of memory, or pass '
            "workers=1"
        )

    def _finish(self, image: _Image, counts: Counts) -> None:
        if image.file is not None:
            _write(image.file, counts)
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


_IGNORE_CTRL_C = (signal.SIGINT, signal.SIG_IGN)
"""The worker's: the main process sees Ctrl-C and ends the pool."""


@dataclass(frozen=True)
class Settings:
    """What the counts of an image depend on, apart from its maps."""

    thresholds: tuple[float, ...]
    tolerance: float
    nms: bool


@dataclass(frozen=True)
class Counts:
    """Pixels of one image: predicted and matched per threshold, and true ones."""

    predicted: list[int]
    matched: list[int]
    true: int


@dataclass
class _Image:
    """One image that is to be counted: 8 bit scores, true pixels, its file in the cache."""

    scores: np.ndarray
    true: np.ndarray
    file: Path | None = None

    def key(self, settings: Settings) -> str:
        """Name of all that the counts depend on."""
        text = json.dumps([VERSION, settings.thresholds, settings.tolerance, settings.nms])
        digest = hashlib.sha256(f"{text} {self.true.shape} ".encode())
        digest.update(self.scores.tobytes())
        digest.update(np.packbits(self.true).tobytes())
        return digest.hexdigest()


def _read(file: Path, num_thresholds: int) -> Counts | None:
    """Counts of the cache; None if there are none, or the file is damaged."""
    try:
        data = json.loads(file.read_text())
        predicted, matched = ([int(n) for n in data[name]] for name in ("predicted", "matched"))
        counts = Counts(predicted, matched, int(data["true"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = len(counts.predicted) == len(counts.matched) == num_thresholds
    return counts if whole else None


def _write(file: Path, counts: Counts) -> None:
    """Write to the cache, in one step: no reader sees half a file."""
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps(vars(counts)))
        part.replace(file)
    except OSError as error:
        raise OutputError(
            f"ods_f: cannot write {file}: {error.strerror}; free some room, or name another cache"
        ) from None


def eight_bit(prediction: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Probabilities as 0 to 255, rounded; 0 where not valid or NaN.

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


# ---- one image ----


def count(scores: np.ndarray, true: np.ndarray, settings: Settings) -> Counts:
    """Predicted and matched pixels per threshold of one image.

    Args:
        scores: `(H, W)` uint8 probabilities.
        true: `(H, W)` bool boundary, not yet thin.
        settings: Thresholds, tolerance and whether to suppress.
    """
    strength = suppress(scores) if settings.nms else scores / 255
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
        kept = values >= threshold
        size = int(np.count_nonzero(kept))
        # Each step keeps all that the one before kept: as many are the same ones.
        if size == before:
            predicted.append(predicted[-1])
            matched.append(matched[-1])
            continue
        before = size
        mask = np.zeros(true.size, bool)
        mask[candidates[kept]] = True
        lines = thin(mask.reshape(true.shape)).ravel()[candidates]
        predicted.append(int(np.count_nonzero(lines)))
        matched.append(matching.largest(lines))
    return Counts(predicted[::-1], matched[::-1], int(np.count_nonzero(truth)))


def suppress(scores: np.ndarray) -> np.ndarray:
    """Ridges of a map of 8 bit probabilities, as float64 0 to 1; all else is 0.

    After Dollar and Zitnick (2015), section 3: a pixel stays if no value one pixel away, on either
    side across the line, is more than 1 % stronger; values between pixels are bilinear, and those
    outside are the border's. Then a frame of 5 pixels (of half the image, if that is less) fades
    linearly to 0.

    The direction across the line has the tangent `-sign(xy) * yy / (xx + 1e-5)` of the second
    derivatives of the map, smoothed by a triangle of radius 4. That is the formula of their code,
    which published numbers rest on: on a straight ridge it is the squared tangent of the true
    direction, right at multiples of 45 degrees and at most 13 off between. A cross derivative of 0
    counts as negative here, which turns level ridges the right way. Sums are of integers, so that
    the result is the same on every machine.
    """
    height, width = scores.shape
    smooth = _triangle(_triangle(scores.astype(np.int64), 0), 1)
    x, y = _twice_gradient(smooth, 1), _twice_gradient(smooth, 0)
    xx, xy, yy = _twice_gradient(x, 1), _twice_gradient(y, 1), _twice_gradient(y, 0)
    # Integers are larger than the derivatives by 255 (8 bits), 25 a smoothing and 2 a gradient.
    tangent = np.where(xy > 0, -yy, yy) / (xx + 1e-5 * 255 * 25**2 * 2**2)

    rows, columns = np.nonzero(scores)
    own = scores[rows, columns]
    across = tangent[rows, columns]
    length = np.sqrt(1 + across * across)
    dx, dy = 1 / length, across / length
    allowed = own * SLACK
    stays = np.ones(len(own), bool)
    for side in (-1, 1):
        there = _between(scores, rows + side * dy, columns + side * dx)
        stays &= allowed >= there

    out = np.zeros((height, width), np.int64)
    out[rows[stays], columns[stays]] = own[stays]
    row_fade, row_full = _fade(height)
    column_fade, column_full = _fade(width)
    ridges: np.ndarray = out * row_fade[:, None] * column_fade / (255 * row_full * column_full)
    return ridges


def _triangle(values: np.ndarray, axis: int) -> np.ndarray:
    """25 times the mean with weights 1 2 3 4 5 4 3 2 1; the border is mirrored."""
    values = np.moveaxis(values, axis, 0)
    size = len(values)
    padded = np.pad(values, [(SMOOTHING, SMOOTHING), (0, 0)], mode="symmetric")
    out = np.zeros_like(values)
    for shift in range(-SMOOTHING, SMOOTHING + 1):
        weight = SMOOTHING + 1 - abs(shift)
        out += weight * padded[SMOOTHING + shift :][:size]
    return np.moveaxis(out, 0, axis)


def _twice_gradient(values: np.ndarray, axis: int) -> np.ndarray:
    """Two times the gradient: differences of both neighbours, one-sided at the border."""
    values = np.moveaxis(values, axis, 0)
    out = np.zeros_like(values)
    if len(values) > 1:
        out[1:-1] = values[2:] - values[:-2]
        out[0] = 2 * (values[1] - values[0])
        out[-1] = 2 * (values[-1] - values[-2])
    return np.moveaxis(out, 0, axis)


def _between(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Values at places between pixels, bilinear; outside, the nearest place inside counts."""
    height, width = values.shape
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    top, left = row.astype(np.intp), column.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, along = row - top, column - left
    upper = values[top, left] * (1 - along) + values[top, right] * along
    lower = values[bottom, left] * (1 - along) + values[bottom, right] * along
    mixed: np.ndarray = upper * (1 - down) + lower * down
    return mixed


def _fade(size: int) -> tuple[np.ndarray, int]:
    """Integer weights along one axis, and which of them is the whole."""
    full = max(1, min(BORDER, size // 2))
    index = np.arange(size)
    if size < 2:
        return np.zeros(size, np.int64), full
    return np.minimum(np.minimum(index, size - 1 - index), full), full


# ---- thinning ----

# Eight neighbours as (row, column), against the clock from the right one; bit i of a code is the
# i-th of them.
_AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


@once
def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """For each of two turns, which of 256 neighbourhoods let a pixel go (Guo and Hall 1989)."""
    tables = np.zeros((2, 256), bool)
    for code in range(256):
        n = [bool(code >> i & 1) for i in range(8)]
        crossings = sum(not n[i] and (n[i + 1] or n[(i + 2) % 8]) for i in (0, 2, 4, 6))
        one = sum(n[i] or n[i + 1] for i in (0, 2, 4, 6))
        other = sum(n[i + 1] or n[(i + 2) % 8] for i in (0, 2, 4, 6))
        if crossings == 1 and 2 <= min(one, other) <= 3:
            tables[0, code] = not (n[0] and (n[1] or n[2] or not n[7]))
            tables[1, code] = not (n[4] and (n[5] or n[6] or not n[3]))
    return tables[0], tables[1]


def thin(mask: np.ndarray) -> np.ndarray:
    """Lines one pixel wide of a bool `(H, W)`: what `skimage.morphology.thin` gives.

    Only set pixels are looked at, and after the first two turns only those next to one that went.
    """
    height, width = mask.shape
    stride = width + 2
    image = np.zeros((height + 2, stride), np.uint8)
    image[1:-1, 1:-1] = mask
    flat = image.ravel()
    around = [row * stride + column for row, column in _AROUND]
    look = np.flatnonzero(flat)
    gone: list[np.ndarray] = []
    turn = 0
    while True:
        code = np.zeros(len(look), np.uint8)
        for bit, shift in enumerate(around):
            code |= flat[look + shift] << np.uint8(bit)
        leave = look[_deletable()[turn % 2][code]]
        flat[leave] = 0
        gone.append(leave)
        turn += 1
        if turn == 1:
            look = look[flat[look] > 0]
            continue
        # A neighbourhood that did not change since the same turn before keeps its pixel.
        recent = np.concatenate(gone[-2:])
        if not len(recent):
            return image[1:-1, 1:-1].astype(bool)
        near = np.concatenate([recent + shift for shift in around])
        look = np.unique(near[flat[near] > 0])


# ---- matching ----


def within(pixels: np.ndarray, truth: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Which true pixels are at most `radius` pixels from each of `pixels`.

    Args:
        pixels: Flat indices into `truth`.
        truth: `(H, W)` bool.
        radius: Largest distance of two centres, in pixels.

    Returns:
        `start` and `neighbours`: those of pixel i are `neighbours[start[i] : start[i + 1]]`, as
        numbers of true pixels in reading order, nearest first.
    """
    height, width = truth.shape
    reach = int(min(radius, math.hypot(height, width)))
    number = np.full((height + 2 * reach, width + 2 * reach), -1, np.int32)
    number[reach : reach + height, reach : reach + width][truth] = np.arange(
        np.count_nonzero(truth), dtype=np.int32
    )
    stride = width + 2 * reach
    shifts = sorted(
        (dy * dy + dx * dx, dy * stride + dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius * radius
    )
    offsets = np.array([shift for _, shift in shifts])
    place = (pixels // width + reach) * stride + pixels % width + reach
    sizes, found = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for part in _parts(place, (1 << 22) // len(offsets) + 1):
        numbers = number.ravel()[part[:, None] + offsets]
        hit = numbers >= 0
        sizes.append(np.count_nonzero(hit, axis=1))
        found.append(numbers[hit])
    return np.cumsum(np.concatenate(sizes)), np.concatenate(found)


def _parts(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]


class Matching:
    """A largest one-to-one matching of some of the predicted pixels with the true ones.

    From one set of predicted pixels to the next what still holds is kept, and augmenting paths do
    the rest: where there is none, no matching is larger (Berge 1957). scipy's
    `maximum_bipartite_matching` gives the same numbers, but starts anew each time, and needs
    minutes where the side it starts from is the larger one.
    """

    def __init__(self, start: np.ndarray, neighbours: np.ndarray, num_true: int) -> None:
        """Start with no pixel. `start` and `neighbours` are those of `within`."""
        rows = np.repeat(np.arange(len(start) - 1), np.diff(start))
        order = np.argsort(neighbours, kind="stable")
        back = np.searchsorted(neighbours[order], np.arange(num_true + 1))
        self._forth = (start.tolist(), neighbours.tolist())
        self._back = (back.tolist(), rows[order].tolist())
        self._of_predicted = np.full(len(start) - 1, -1, np.int64)
        self._of_true = np.full(num_true, -1, np.int64)

    def largest(self, chosen: np.ndarray) -> int:
        """How many pixels of the bool mask `chosen` can have a true pixel of their own, at most."""
        dropped = self._of_predicted[~chosen]
        self._of_true[dropped[dropped >= 0]] = -1
        self._of_predicted[~chosen] = -1
        free = np.flatnonzero(chosen & (self._of_predicted < 0))
        missed = np.flatnonzero(self._of_true < 0)
        predicted, true = self._of_predicted.tolist(), self._of_true.tolist()
        # A larger matching would have a path from a free pixel of either side: take the side
        # with fewer of them.
        if len(free) <= len(missed):
            _augment(free.tolist(), self._forth, predicted, true, bytearray(len(true)))
        else:
            closed = bytearray((~chosen).tobytes())
            _augment(missed.tolist(), self._back, true, predicted, closed)
        self._of_predicted, self._of_true = np.array(predicted, int), np.array(true, int)
        return int(np.count_nonzero(self._of_true >= 0))


def _augment(
    free: list[int],
    graph: tuple[list[int], list[int]],
    own: list[int],
    other: list[int],
    closed: bytearray,
) -> None:
    """Look for an augmenting path from each of `free`, breadth first, and match along it.

    Args:
        free: Pixels of one side without a partner.
        graph: `start` and `neighbours` of that side.
        own: Partner of each pixel of that side, -1 for none; changed.
        other: Partner of each pixel of the other side, -1 for none; changed.
        closed: Pixels of the other side that cannot be used; changed.
    """
    start, neighbours = graph
    came_from = [0] * len(other)
    for root in free:
        queue, seen = [root], []
        found = False
        for here in queue:
            for there in neighbours[start[here] : start[here + 1]]:
                if closed[there]:
                    continue
                closed[there] = 1
                seen.append(there)
                came_from[there] = here
                if other[there] < 0:
                    found = True
                    break
                queue.append(other[there])
            if found:
                break
        if not found:
            # Nothing that was seen leads to a free pixel, from wherever it is reached: it stays
            # closed, so that all failures together look at each edge once.
            continue
        there = seen[-1]
        while there >= 0:
            here = came_from[there]
            other[there] = here
            own[here], there = there, own[here]
        for there in seen:
            closed[there] = 0
