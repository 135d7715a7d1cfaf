"""Augmentation of training samples: two published recipes, and a light one.

`published` is that of the DeMT family (the ATRC code), `zoom` that of Multi-Task-Learning-PyTorch
for NYUD-v2, on which PAD-Net and M3ViT were compared. Both are OpenCV's arithmetic, written anew:
interpolation without antialiasing, rounding down, hues in steps of two degrees.

What happens to a sample depends on the seed, the epoch and the sample, and on nothing else: not on
the process, the worker or where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from degmix_edge.preprocess import MEAN_COLOUR, Fit
from degmix_training.data._sample import Sample

IGNORE = 255
PADDING = {"depth": 0.0, "normals": 0.0}
"""Label value of padding, where it is not 255: what is invalid for the task."""
SCALES = (0.5, 2.0)
ZOOMS = (1.0, 1.2, 1.5)
MOST_OF_ONE_CLASS = 0.75
CROP_TRIES = 10


class Augmented(Sequence[Sample]):
    """Samples by `(epoch, index)`, each at `size` and with only the labels of `tasks`."""

    def __init__(
        self,
        samples: Sequence[Sample],
        tasks: Sequence[str],
        size: tuple[int, int],
        recipe: str,
        seed: int,
    ) -> None:
        self.samples, self.tasks, self.size = samples, tuple(tasks), size
        self.recipe, self.seed = recipe, seed

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Sample:  # type: ignore[override]
        """One freshly augmented sample."""
        epoch, index = key
        sample = self.samples[index]
        sample = Sample(sample.name, sample.image, {t: sample.labels[t] for t in self.tasks})
        rng = np.random.default_rng((self.seed, epoch, index))
        if self.recipe == "published":
            sample = crop(scale(sample, rng.uniform(*SCALES)), self.size, rng)
        if self.recipe != "none" and rng.random() < 0.5:
            sample = sample.flipped()
        if self.recipe == "zoom":
            return mark_ignored(fixed(zoom(sample, float(rng.choice(ZOOMS))), self.size))
        if self.recipe != "none":
            change = photometric if self.recipe == "published" else light
            sample = Sample(sample.name, change(sample.image, rng), sample.labels)
        sample = place(sample, self.size)
        return mark_ignored(sample) if self.recipe == "published" else sample


def scale(sample: Sample, factor: float) -> Sample:
    """Larger or smaller by `factor`: image bilinear, labels nearest, depth divided by `factor`.

    A thing that looks twice as large is half as far away. Directions of normals stay. Sides and
    the image's levels are rounded down.
    """
    size = tuple(max(1, int(side * factor)) for side in sample.image.shape[:2])
    image = _interpolated(sample.image, size, "bilinear").astype(np.uint8)
    return Sample(sample.name, image, _nearer(_nearest(sample.labels, size), factor))


def zoom(sample: Sample, factor: float) -> Sample:
    """Magnified by `factor` about the middle, at the same size; depth divided by `factor`.

    Image and normals are interpolated with cubics, other labels take the nearest pixel. Where a
    cubic leaves 0 to 255 it is clipped; the public code lets it wrap around.
    """
    if factor == 1:
        return sample
    sides = sample.image.shape[:2]
    rows, columns = ((np.arange(n) - n / 2) / factor + n / 2 for n in sides)
    pixels = np.ix_(*(np.floor(at + 0.5).astype(np.intp) for at in (rows, columns)))
    image = _clip(_cubic_at(sample.image, rows, columns))
    labels = {task: label[pixels] for task, label in sample.labels.items()}
    if "normals" in labels:
        labels["normals"] = _unit(_cubic_at(sample.labels["normals"], rows, columns))
    return Sample(sample.name, image, _nearer(labels, factor))


def fixed(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resized to `size`, whatever its shape: image and normals cubic, other labels nearest."""
    if sample.image.shape[:2] == size:
        return sample
    image = _clip(_interpolated(sample.image, size, "bicubic"))
    labels = _nearest(sample.labels, size)
    if "normals" in labels:
        labels["normals"] = _unit(_interpolated(sample.labels["normals"], size, "bicubic"))
    return Sample(sample.name, image, labels)


def _nearer(labels: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """Labels of things that look larger by `factor`."""
    if "depth" not in labels:
        return labels
    return labels | {"depth": labels["depth"] / np.float32(factor)}


def _interpolated(image: np.ndarray, size: tuple[int, ...], mode: str) -> np.ndarray:
    """`(h, w, C)` at `size`, FP32, half-pixel centres, without antialiasing."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).float().permute(2, 0, 1)[None]
    resized = F.interpolate(tensor, size, mode=mode, align_corners=False)[0]
    return resized.permute(1, 2, 0).numpy()


def _cubic_at(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`(h, w, C)` at a grid of places in pixels, FP32; zero outside."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).float().permute(2, 0, 1)[None]
    height, width = image.shape[:2]
    y, x = (2 * at / (n - 1) - 1 for at, n in ((rows, height), (columns, width)))
    grid = torch.from_numpy(np.stack(np.broadcast_arrays(x[None], y[:, None]), -1)).float()[None]
    sampled = F.grid_sample(tensor, grid, mode="bicubic", align_corners=True)[0]
    return sampled.permute(1, 2, 0).numpy()


def _nearest(labels: dict[str, np.ndarray], size: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Labels `(h, w, ...)` at `size`: the pixel at a target's first corner, as OpenCV has it."""
    found = {}
    for task, label in labels.items():
        steps = [1 / (want / have) for want, have in zip(size, label.shape[:2], strict=True)]
        at = [np.floor(np.arange(n) * s).astype(np.intp) for n, s in zip(size, steps, strict=True)]
        sides = zip(at, label.shape[:2], strict=True)
        found[task] = label[np.ix_(*(np.minimum(i, have - 1) for i, have in sides))]
    return found


def _unit(normals: np.ndarray) -> np.ndarray:
    """Normals `(h, w, 3)` at length one; those of length zero stay."""
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    return (normals / np.maximum(length, 1e-6)).astype(np.float32)


def crop(sample: Sample, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """A random window of at most `size`; drawn up to ten times while one class fills 75 % of it."""
    for _ in range(CROP_TRIES):
        window = tuple(
            slice(start := int(rng.integers(0, max(have - want, 0) + 1)), start + want)
            for have, want in zip(sample.image.shape[:2], size, strict=True)
        )
        if "semseg" not in sample.labels:
            break
        classes = sample.labels["semseg"][window]
        counts = np.bincount(classes[classes != IGNORE])
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < MOST_OF_ONE_CLASS:
            break
    labels = {task: label[window] for task, label in sample.labels.items()}
    return Sample(sample.name, sample.image[window], labels)


def photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each half of the time, on `(H, W, 3)` uint8.

    Brightness +-32, contrast and saturation times 0.5 to 1.5, hue +-18 of 180. Contrast comes
    second or last, at random. Every step rounds down to uint8.
    """
    pixels = image
    if rng.random() < 0.5:
        pixels = _clip(pixels + rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    is_second = rng.random() < 0.5
    if is_second:
        pixels = _clip(pixels * contrast)
    if rng.random() < 0.5:
        hue, saturation, value = hsv_of(pixels)
        pixels = rgb_of(hue, _clip(saturation * rng.uniform(0.5, 1.5)), value)
    if rng.random() < 0.5:
        hue, saturation, value = hsv_of(pixels)
        pixels = rgb_of((hue + rng.integers(-18, 18)) % 180, saturation, value)
    return pixels if is_second else _clip(pixels * contrast)


HSV_BITS = 12
"""OpenCV divides by multiplying with a rounded reciprocal of so many bits."""


def hsv_of(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue (0 to 179), saturation and value (0 to 255), int32, of `(H, W, 3)` uint8 RGB."""
    red, green, blue = (image[..., c].astype(np.int32) for c in range(3))
    value = image.max(2).astype(np.int32)
    range_ = value - image.min(2)
    saturation = _divided(range_, 255, value)
    sector = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * range_, red - green + 4 * range_),
    )
    return _divided(sector, 30, range_) % 180, saturation, value


def _divided(numerator: np.ndarray, factor: int, denominator: np.ndarray) -> np.ndarray:
    """`numerator * factor / denominator`, rounded as OpenCV does it; 0 where it divides by 0."""
    with np.errstate(divide="ignore"):
        reciprocal = np.rint((factor << HSV_BITS) / denominator.astype(np.float64))
    reciprocal = np.where(denominator == 0, 0, reciprocal).astype(np.int64)
    return ((numerator * reciprocal + (1 << (HSV_BITS - 1))) >> HSV_BITS).astype(np.int32)


def rgb_of(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` uint8 RGB of what `hsv_of` gives, rounded down."""
    sector, part = np.divmod(hue.astype(np.float32) * np.float32(6 / 180), np.float32(1))
    strength, top = (x.astype(np.float32) * np.float32(1 / 255) for x in (saturation, value))
    low, falling, rising = (top * (1 - strength * x) for x in (np.float32(1), part, 1 - part))
    order = (
        (top, rising, low),
        (falling, top, low),
        (low, top, rising),
        (low, falling, top),
        (rising, low, top),
        (top, low, falling),
    )
    number = sector.astype(np.intp) % 6
    channels = [np.choose(number, [parts[c] for parts in order]) for c in range(3)]
    return _clip(np.stack(channels, -1) * np.float32(255))


def light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness +-32, contrast and saturation 0.5-1.5, each half of the time; white balance."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.5:
        pixels += np.float32(rng.uniform(-32, 32))
    if rng.random() < 0.5:
        pixels = (pixels - 128) * np.float32(rng.uniform(0.5, 1.5)) + 128
    if rng.random() < 0.5:
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = grey + (pixels - grey) * np.float32(rng.uniform(0.5, 1.5))
    pixels *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return _clip(pixels)


def place(sample: Sample, size: tuple[int, int]) -> Sample:
    """Centred on a canvas of `size`: the image on the mean colour, labels on what is ignored.

    A sample that is larger is cropped to its middle.
    """
    if sample.image.shape[:2] == size:
        return sample
    target, source = [], []
    for have, want in zip(sample.image.shape[:2], size, strict=True):
        length = min(have, want)
        target.append(slice(start := (want - length) // 2, start + length))
        source.append(slice(start := (have - length) // 2, start + length))
    inside, kept = tuple(target), tuple(source)
    image = np.empty((*size, 3), np.uint8)
    image[:] = MEAN_COLOUR
    image[inside] = sample.image[kept]
    labels = {}
    for task, label in sample.labels.items():
        value = PADDING.get(task, IGNORE)
        labels[task] = np.full((*size, *label.shape[2:]), value, label.dtype)
        labels[task][inside] = label[kept]
    return Sample(sample.name, image, labels)


def at_size(sample: Sample, fit: Fit) -> Sample:
    """A sample as evaluation has it.

    One that fits into the input is padded and centred, as the published evaluations do it. A larger
    one stays as it is: it will be shrunk, and its maps enlarged. So does one of an input without
    padding, which `crop` fills.
    """
    height, width = sample.image.shape[:2]
    if fit.mode == "crop" or height > fit.height or width > fit.width:
        return sample
    return place(sample, fit.size)


def mark_ignored(sample: Sample) -> Sample:
    """Human parts of a sample without a person are ignored, as the published recipe has it."""
    parts = sample.labels.get("human_parts")
    if parts is None or ((parts > 0) & (parts != IGNORE)).any():
        return sample
    labels = sample.labels | {"human_parts": np.full_like(parts, IGNORE)}
    return Sample(sample.name, sample.image, labels)


def _clip(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels, 0, 255).astype(np.uint8)
