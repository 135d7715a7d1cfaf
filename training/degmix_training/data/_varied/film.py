"""From linear light to a picture: exposure, tone, blur, noise and JPEG."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import PIL.ImageFilter


def occlusion(depth: np.ndarray, radius: int) -> np.ndarray:
    """Factor `(H, W)` that darkens what lies behind its neighbours: corners, and under things.

    Luft et al., "Image enhancement by unsharp masking the depth buffer", SIGGRAPH 2006.
    """
    inverse = 1 / np.maximum(depth, 0.05)
    behind = np.maximum(_box_blur(inverse, radius) / inverse - 1, 0)
    # A background far behind an outline is not dark: the effect fades with the distance.
    return 1 - 0.22 * np.clip(behind * 5, 0, 1) * np.clip(1.5 - behind * 3, 0, 1)


def _box_blur(values: np.ndarray, radius: int) -> np.ndarray:
    for axis in (0, 1):
        pad = [(radius + 1, radius) if i == axis else (0, 0) for i in (0, 1)]
        total = np.cumsum(np.pad(values, pad, mode="edge"), axis=axis)
        width = 2 * radius + 1
        first, last = (
            np.take(total, range(width, total.shape[axis]), axis),
            np.take(total, range(total.shape[axis] - width), axis),
        )
        values = (first - last) / width
    return values


def develop(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """A picture of linear RGB `(H, W, 3)`, uint8."""
    height, width = linear.shape[:2]
    middle = float(np.quantile(linear.mean(axis=2)[::4, ::4], 0.6))
    bright = linear * (0.28 * np.exp(rng.normal(0, 0.35)) / max(middle, 1e-3))
    bright = bright * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    if (fall := rng.uniform(-0.2, 0.35)) > 0:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
        bright = bright * (1 - fall * (x * x + y * y))
    if rng.random() < 0.5:  # a shoulder instead of a hard cut
        bright = bright * (1 + bright / 4) / (1 + bright)
    tone = np.clip(bright, 0, 1) ** (1 / rng.uniform(1.8, 2.6))
    grey = tone.mean(axis=2, keepdims=True)
    tone = grey + (tone - grey) * rng.uniform(0.6, 1.35)
    tone = (tone - 0.5) * rng.uniform(0.85, 1.2) + 0.5 + rng.uniform(-0.04, 0.04)
    if rng.random() < 0.08:
        tone = np.broadcast_to(tone.mean(axis=2, keepdims=True), tone.shape)
    image = PIL.Image.fromarray((255 * np.clip(tone, 0, 1)).astype(np.uint8))
    image = _blur(rng, image, height / 192)
    noisy = np.asarray(image, np.float32)
    level = rng.exponential(2.5)
    noisy = noisy + rng.standard_normal(noisy.shape, np.float32) * (
        level * np.sqrt(0.3 + noisy / 255)
    )
    return jpeg(rng, np.clip(noisy, 0, 255).astype(np.uint8))


def _blur(rng: np.random.Generator, image: PIL.Image.Image, scale: float) -> PIL.Image.Image:
    """Smooths the stairs of one ray a pixel; some pictures are out of focus or shaken."""
    radius = rng.uniform(0.35, 0.6) if rng.random() < 0.75 else rng.uniform(0.6, 1.8)
    image = image.filter(PIL.ImageFilter.GaussianBlur(radius * max(scale, 0.5)))
    if rng.random() < 0.12:
        steps, angle = rng.uniform(1, 4) * scale, rng.uniform(0, np.pi)
        pixels = np.asarray(image, np.float32)
        total = sum(
            np.roll(pixels, (round(k * np.sin(angle)), round(k * np.cos(angle))), (0, 1))
            for k in np.linspace(-steps / 2, steps / 2, 5)
        )
        image = PIL.Image.fromarray((total / 5).astype(np.uint8))
    return image


def jpeg(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Two of three pictures go through JPEG."""
    quality = int(rng.integers(25, 97))
    if rng.random() > 0.67:
        return image
    return through_jpeg(image, quality)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of a picture `(H, W, 3)` uint8 after JPEG of this quality."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    with PIL.Image.open(buffer) as file:
        return np.asarray(file.convert("RGB")).copy()
