"""Corruptions of a picture at the levels of ImageNet-C.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019 (arXiv 1903.12261), with the constants of its ImageNet variant, which has
pictures of 224 pixels. Frost, snow, glass blur, zoom blur and the elastic transform are left out.
"""

from __future__ import annotations

import numpy as np
import PIL.Image

from degmix_training.data._varied.film import through_jpeg

LEVELS: dict[str, tuple[object, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
}
"""The constant of each of the five severities, by corruption."""
SEVERITIES = 5


def corrupt(image: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A corrupted copy of a picture `(H, W, 3)` uint8; `severity` is 1 to 5."""
    level = LEVELS[name][severity - 1]
    if name == "jpeg_compression":
        return through_jpeg(image, int(level))  # type: ignore[call-overload]
    if name == "pixelate":
        return _pixelate(image, float(level))  # type: ignore[arg-type]
    pixels = image.astype(np.float32) / 255
    return (255 * np.clip(_CHANGES[name](pixels, level, rng), 0, 1)).astype(np.uint8)


def _gaussian_noise(pixels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return pixels + rng.normal(0, level, pixels.shape)


def _shot_noise(pixels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(pixels * level) / level


def _impulse_noise(pixels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper, each on half of the share `level` of all values."""
    share = rng.random(pixels.shape)
    return np.where(share < level / 2, 0, np.where(share > 1 - level / 2, 1, pixels))


def _defocus_blur(
    pixels: np.ndarray, level: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A disc of radius `level[0]`, whose border is smoothed by a Gaussian of `level[1]` pixels."""
    radius, smooth = level
    side = np.arange(-max(8, radius), max(8, radius) + 1)
    disc = (side[:, None] ** 2 + side[None] ** 2 <= radius**2).astype(np.float32)
    near = np.exp(-(np.arange(-2, 3) ** 2) / (2 * smooth**2))
    near /= near.sum()
    for axis in (0, 1):
        disc = np.apply_along_axis(np.convolve, axis, disc, near, "same")
    return _convolve(pixels, disc / disc.sum())


def _motion_blur(
    pixels: np.ndarray, level: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Along a line of a random angle within 45 degrees, one-sided, with Gaussian weights."""
    radius, sigma = level
    angle = np.deg2rad(rng.uniform(-45, 45))
    kernel = np.zeros((2 * int(radius) + 1,) * 2, np.float32)
    for step in range(2 * int(radius) + 1):
        row, column = round(step * np.sin(angle)), round(step * np.cos(angle))
        place = (int(radius) + row, int(radius) + column)
        if max(place) < len(kernel) and min(place) >= 0:
            kernel[place] += np.exp(-(step**2) / (2 * sigma**2))
    return _convolve(pixels, kernel / kernel.sum())


def _brightness(pixels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """The value of HSV, which is the largest channel, plus `level`; hue and saturation stay."""
    value = pixels.max(axis=2, keepdims=True)
    lifted = np.clip(value + level, 0, 1)
    return np.where(value > 0, pixels * lifted / np.maximum(value, 1e-6), lifted)


def _contrast(pixels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * level + mean


_CHANGES = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "brightness": _brightness,
    "contrast": _contrast,
}


def _pixelate(image: np.ndarray, share: float) -> np.ndarray:
    height, width = image.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    box = PIL.Image.Resampling.BOX
    return np.asarray(PIL.Image.fromarray(image).resize(small, box).resize((width, height), box))


def _convolve(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each channel with a kernel of odd sides, mirrored at the borders; by Fourier transform."""
    height, width = pixels.shape[:2]
    reach = len(kernel) // 2
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    full = np.fft.irfft2(spectrum, size, axes=(0, 1))
    blurred: np.ndarray = full[2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return blurred
