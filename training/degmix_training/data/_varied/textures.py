"""Pictures that surfaces are covered with: scikit-image's photographs, and computed patterns.

The photographs on which networks are shown (`degmix_edge.workflows.sources.PHOTOGRAPHS`) are not
among them, so that no network has seen those in training. Where scikit-image is not installed, the
computed patterns take the place of the photographs: labels stay the same, and images differ.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

SIDE = 512
"""Side of a texture in texels."""
SMALLEST = 8
PHOTOGRAPHS = (
    "brick.png",
    "grass.png",
    "gravel.png",
    "coins.png",
    "camera.png",
    "moon.png",
    "retina.jpg",
    "ihc.png",
    "hubble_deep_field.jpg",
    "clock_motion.png",
    "cell.png",
    "page.png",
    "text.png",
    "color.png",
)
GROUNDS = ("brick.png", "grass.png", "gravel.png")
"""Photographs of a flat surface, which suit floors, walls and the ground outdoors."""


@dataclass(frozen=True)
class Texture:
    """One picture at all its sizes.

    Attributes:
        name: The file, or the pattern.
        levels: Linear RGB in [0, 1], `(side, side, 3)` float32, each half as large as the last.
    """

    name: str
    levels: tuple[np.ndarray, ...]

    @property
    def is_ground(self) -> bool:
        """Whether it shows a flat surface."""
        return self.name in GROUNDS or self.name.startswith("pattern")

    def colours(self, place: np.ndarray, footprint: float) -> np.ndarray:
        """Bilinear samples, linear RGB `(P, 3)`.

        Args:
            place: `(2, P)` in picture widths; the picture is repeated in mirror image.
            footprint: Size of an image's pixel in picture widths, which selects the level.
        """
        level = int(np.log2(max(footprint * SIDE, 1.0)) + 0.5)
        picture = self.levels[min(level, len(self.levels) - 1)]
        side = picture.shape[0]
        x, y = place * side
        left, top = np.floor(x), np.floor(y)
        right, down = (x - left)[:, None], (y - top)[:, None]
        columns = [_mirror(left.astype(np.int64) + i, side) for i in (0, 1)]
        rows = [_mirror(top.astype(np.int64) + i, side) * side for i in (0, 1)]
        flat = picture.reshape(-1, 3)
        upper = flat[rows[0] + columns[0]] * (1 - right) + flat[rows[0] + columns[1]] * right
        lower = flat[rows[1] + columns[0]] * (1 - right) + flat[rows[1] + columns[1]] * right
        mixed: np.ndarray = upper * (1 - down) + lower * down
        return mixed


def _mirror(index: np.ndarray, side: int) -> np.ndarray:
    index = index % (2 * side)
    return np.where(index < side, index, 2 * side - 1 - index)


@functools.cache
def bank() -> tuple[Texture, ...]:
    """All textures: the photographs that are installed, then the computed patterns."""
    return (*_photographs(), *_patterns())


def digest() -> str:
    """A word for where the textures come from, which decides images but no labels."""
    return "photographs" if _folder() else "patterns"


def _folder() -> Path | None:
    spec = importlib.util.find_spec("skimage")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "data" if places else None
    return folder if folder and all((folder / name).is_file() for name in PHOTOGRAPHS) else None


def _photographs() -> list[Texture]:
    folder = _folder()
    return [] if folder is None else [_photograph(folder / name) for name in PHOTOGRAPHS]


def _photograph(path: Path) -> Texture:
    with PIL.Image.open(path) as file:
        picture = file.convert("RGB")
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    window = (left, top, left + side, top + side)
    resized = picture.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC, window)
    return _texture(path.name, (np.asarray(resized, np.float32) / 255) ** 2.2)


def _texture(name: str, picture: np.ndarray) -> Texture:
    levels = [np.ascontiguousarray(picture, np.float32)]
    while levels[-1].shape[0] > SMALLEST:
        half = levels[-1].shape[0] // 2
        levels.append(levels[-1].reshape(half, 2, half, 2, 3).mean(axis=(1, 3)))
    return Texture(name, tuple(levels))


def _patterns() -> list[Texture]:
    """Clouds of several slopes, wood, marble, cloth, spots, leaves: grey, in [0, 1]."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    clouds = [_clouds(rng, slope) for slope in (0.8, 1.2, 1.6, 2.2)]
    wide, long = _clouds(rng, 1.4, (0.12, 1.0)), _clouds(rng, 1.4, (1.0, 0.1))
    spots, cracks = _cells(rng, 120)
    maps = {
        "clouds 0": clouds[0],
        "clouds 1": clouds[1],
        "clouds 2": clouds[2],
        "clouds 3": clouds[3],
        "wood": 0.5 + 0.5 * np.sin(2 * np.pi * (6 * x + 3 * long + 0.3 * wide)),
        "grain": 0.7 * long + 0.3 * clouds[0],
        "fur": 0.6 * wide + 0.4 * clouds[1],
        "marble": np.abs(np.sin(np.pi * (3 * x + 2 * y + 4 * clouds[2]))) ** 0.5,
        "cloth": 0.5 + 0.25 * (np.sin(80 * np.pi * x) * np.sin(80 * np.pi * y)) + 0.2 * clouds[1],
        "spots": (spots < 0.45).astype(float) * 0.8 + 0.2 * clouds[1],
        "leaves": np.clip(1 - spots, 0, 1) * (0.4 + 0.6 * clouds[1]),
        "stones": np.clip(4 * cracks, 0, 1) * (0.5 + 0.5 * clouds[2]),
        "stripes": (np.sin(16 * np.pi * y + 3 * clouds[3]) > 0).astype(float),
        "plaid": 0.5 * ((8 * x) % 1 < 0.3) + 0.5 * ((8 * y) % 1 < 0.3),
    }
    return [
        _texture(f"pattern {name}", np.repeat(grey[..., None], 3, axis=2))
        for name, grey in maps.items()
    ]


def _clouds(
    rng: np.random.Generator, slope: float, stretch: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Noise `(side, side)` whose amplitude falls with frequency to the power `slope`."""
    frequency = np.fft.fftfreq(SIDE, 1 / SIDE)
    rows, columns = frequency[:, None] / stretch[0], frequency[None] / stretch[1]
    distance = np.hypot(rows, columns)
    distance[0, 0] = np.inf
    phase = rng.uniform(0, 2 * np.pi, (SIDE, SIDE))
    noise = np.fft.ifft2(np.exp(1j * phase) / distance**slope).real
    low, high = np.quantile(noise, (0.02, 0.98))
    clouds: np.ndarray = np.clip((noise - low) / (high - low), 0, 1)
    return clouds


def _cells(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest of `count` points, and to the border between two of them."""
    half = SIDE // 2
    y, x = np.mgrid[0:half, 0:half].astype(np.float32) / half
    first = np.full((half, half), 9, np.float32)
    second = first.copy()
    for px, py in rng.random((count, 2)).astype(np.float32):
        dx, dy = np.abs(x - px), np.abs(y - py)
        distance = np.hypot(np.minimum(dx, 1 - dx), np.minimum(dy, 1 - dy))
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    scale = np.float32(count**0.5)
    large = [a.repeat(2, axis=0).repeat(2, axis=1) * scale for a in (first, second - first)]
    return large[0], large[1]
