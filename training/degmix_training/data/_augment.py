"""Augmentation of training samples: left-right flip, light and colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from degmix_training.data._sample import Sample


class Augmented(Sequence[Sample]):
    """`samples` with only the labels of `tasks`, changed differently every time they are read.

    Flip with probability 0.5; brightness, contrast, saturation and each channel's gain within
    ranges.
    """

    def __init__(self, samples: Sequence[Sample], tasks: Sequence[str], seed: int) -> None:
        self.samples, self.tasks = samples, tasks
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        """One freshly augmented sample."""
        sample = self.samples[index]
        sample = Sample(sample.name, sample.image, {t: sample.labels[t] for t in self.tasks})
        if self.rng.random() < 0.5:
            sample = sample.flipped()
        return Sample(sample.name, photometric(sample.image, self.rng), sample.labels)


def photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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
    return np.clip(pixels, 0, 255).astype(np.uint8)
