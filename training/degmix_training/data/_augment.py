"""Augmentation of training samples: the published recipe, and a light one.

What happens to a sample depends on the seed, the epoch and the sample, and on nothing else: not on
the process, the worker or where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image

from degmix_edge.preprocess import MEAN_COLOUR, Fit
from degmix_training.data._sample import Sample

IGNORE = 255
PADDING = {"depth": 0.0, "normals": 0.0}
"""Label value of padding, where it is not 255: what is invalid for the task."""
SCALES = (0.5, 2.0)
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
        if self.recipe != "none":
            if rng.random() < 0.5:
                sample = sample.flipped()
            change = photometric if self.recipe == "published" else light
            sample = Sample(sample.name, change(sample.image, rng), sample.labels)
        sample = place(sample, self.size)
        return mark_ignored(sample) if self.recipe == "published" else sample


def scale(sample: Sample, factor: float) -> Sample:
    """Larger or smaller by `factor`: image bilinear, labels nearest, depth divided by `factor`.

    A thing that looks twice as large is half as far away. Directions of normals stay.
    """
    height, width = sample.image.shape[:2]
    size = max(1, round(height * factor)), max(1, round(width * factor))
    image = PIL.Image.fromarray(sample.image)
    image = image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.intp)
    labels = {task: label[rows[:, None], columns] for task, label in sample.labels.items()}
    if "depth" in labels:
        labels["depth"] = labels["depth"] / np.float32(factor)
    return Sample(sample.name, np.array(image), labels)


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

    Brightness +-32, contrast and saturation times 0.5 to 1.5, hue +-18 of 180.
    """
    pixels = image
    if rng.random() < 0.5:
        pixels = _clip(pixels + rng.uniform(-32, 32))
    if rng.random() < 0.5:
        pixels = _clip(pixels * rng.uniform(0.5, 1.5))
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-18, 18) * 256 / 180 if rng.random() < 0.5 else 0.0
    if saturation == 1 and hue == 0:
        return pixels
    hsv = np.array(PIL.Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] += np.uint8(round(hue) % 256)  # wraps around, as hues do
    hsv[..., 1] = _clip(hsv[..., 1] * saturation)
    return np.array(PIL.Image.fromarray(hsv, "HSV").convert("RGB"))


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
