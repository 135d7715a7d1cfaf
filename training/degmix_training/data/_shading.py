"""Light, texture and film: the picture of what every pixel sees."""

from __future__ import annotations

import numpy as np

from degmix_training.data._layout import PERSON
from degmix_training.data._texture import Material, draw, paint
from degmix_training.data._view import Buffers, Camera


def shade(
    rng: np.random.Generator,
    camera: Camera,
    size: np.ndarray,
    buffers: Buffers,
    rays: np.ndarray,
    *,
    num_materials: int,
    people: int | None = None,
) -> np.ndarray:
    """Linear RGB `(P, 3)` of rays `(P, 3)`: texture under ambient light and up to three lamps.

    The colours of people come from `rng`, which draws for those that are in view. Given a seed
    `people`, they are the same from any view.
    """
    points = camera.origin + buffers.t[:, None] * rays
    base = np.zeros_like(points)
    gloss = np.zeros(len(points))
    for index in range(num_materials):
        material = draw(rng, large=index >= num_materials - 3)
        chosen = np.flatnonzero(buffers.material == index)
        if len(chosen):
            own = rng if people is None else np.random.default_rng((people, index))
            base[chosen] = _paint(own, material, points[chosen], buffers, chosen)
            gloss[chosen] = material.gloss
    to_eye = -rays / np.sqrt(np.sum(rays**2, axis=1, keepdims=True))
    light = np.full((len(points), 1), rng.uniform(0.25, 0.5))
    shine = np.zeros(len(points))
    for _ in range(int(rng.integers(1, 4))):
        lamp = rng.uniform(0.15, 0.85, 3) * size
        lamp[2] = size[2] * rng.uniform(0.75, 0.98)
        towards = lamp - points
        distance2 = np.sum(towards**2, axis=1)
        towards /= np.sqrt(distance2)[:, None]
        power = rng.uniform(0.4, 1.0) / (0.4 + 0.12 * distance2)
        facing = np.maximum(np.sum(towards * buffers.normals, axis=1), 0)
        light = light + (power * facing)[:, None]
        half = towards + to_eye
        half /= np.sqrt(np.sum(half**2, axis=1, keepdims=True))
        shine += power * np.maximum(np.sum(half * buffers.normals, axis=1), 0) ** 32
    return base * light + (gloss * shine)[:, None]


def _paint(
    rng: np.random.Generator,
    material: Material,
    points: np.ndarray,
    buffers: Buffers,
    chosen: np.ndarray,
) -> np.ndarray:
    colours = paint(material, points, buffers.normals[chosen])
    if buffers.semseg[chosen[0]] == PERSON and buffers.part[chosen[0]] in (1, 4):
        # Skin and hair come in their own colours.
        tone = np.array([0.9, 0.68, 0.53]) * rng.uniform(0.25, 1.0)
        colours = 0.8 * tone + 0.2 * colours
    return colours


def develop(
    rng: np.random.Generator, linear: np.ndarray, grain: np.random.Generator | None = None
) -> np.ndarray:
    """Exposure, white balance, vignette, noise and gamma: uint8 `(H, W, 3)`.

    The noise comes from `grain`, or from `rng` where there is none.
    """
    height, width = linear.shape[:2]
    exposure = rng.uniform(0.45, 0.65) / max(float(np.mean(linear)), 1e-3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1 - rng.uniform(0, 0.25) * (x * x + y * y)[..., None]
    bright = linear * exposure * vignette * rng.uniform(0.88, 1.12, 3)
    noise_level = rng.uniform(0.002, 0.02)
    noise = (grain or rng).normal(0, noise_level, linear.shape)
    return (255 * np.clip(np.clip(bright, 0, 1) ** (1 / 1.6) + noise, 0, 1)).astype(np.uint8)
