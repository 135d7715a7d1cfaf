"""Procedural textures: colours of points on surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = 6


@dataclass(frozen=True)
class Material:
    """A pattern of two colours.

    Attributes:
        kind: solid, checker, stripes, wood, noise or brick, as 0 to 5.
        first, second: Linear RGB in [0, 1].
        size: Size of the pattern in metres.
        gloss: Share of the specular highlight.
        phase: Shift of the pattern.
    """

    kind: int
    first: np.ndarray
    second: np.ndarray
    size: float
    gloss: float
    phase: np.ndarray


def draw(rng: np.random.Generator, *, large: bool) -> Material:
    """A random material; large surfaces have calmer patterns and paler colours."""
    value = rng.uniform(0.45, 0.95) if large else rng.uniform(0.08, 0.9)
    saturation = rng.beta(1.2, 4.0) if large else rng.beta(1.3, 2.2)
    first = _colour(rng.random(), saturation, value)
    contrast = rng.uniform(0.6, 0.95) if large else rng.uniform(0.3, 0.9)
    drift = rng.uniform(-0.08, 0.08)
    second = np.clip(first * contrast + drift, 0, 1)
    chances = np.array([0.35, 0.1, 0.12, 0.18, 0.15, 0.1])
    return Material(
        kind=int(rng.choice(KINDS, p=chances)),
        first=first,
        second=second,
        size=float(rng.uniform(0.15, 0.6) if large else rng.uniform(0.03, 0.15)),
        gloss=float(rng.choice((0.0, 0.15, 0.5))),
        phase=rng.uniform(0, 50, 3),
    )


def paint(material: Material, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Linear RGB `(P, 3)` of `points` `(P, 3)` in metres."""
    place = points / material.size + material.phase
    if material.kind == 0:
        share = np.zeros(len(points))
    elif material.kind == 1:
        share = (np.floor(place).sum(axis=1) % 2 > 0.5).astype(float)
    elif material.kind == 2:
        share = (np.sin(3 * (place[:, 0] + place[:, 1] + 2 * place[:, 2])) > 0).astype(float)
    elif material.kind == 3:
        stretched = place * np.array([0.25, 3.0, 3.0])
        share = 0.5 + 0.5 * np.sin(4 * place[:, 1] + 5 * _noise(stretched))
    elif material.kind == 4:
        share = 0.6 * _noise(place) + 0.4 * _noise(2.7 * place)
    else:
        share = _bricks(place, normals)
    return material.first + share[:, None] * (material.second - material.first)


def _bricks(place: np.ndarray, normals: np.ndarray) -> np.ndarray:
    along = np.where(np.abs(normals[:, 0]) > np.abs(normals[:, 1]), place[:, 1], place[:, 0])
    flat = np.abs(normals[:, 2]) > 0.5
    across = np.where(flat, place[:, 1], place[:, 2] * 2)
    along = np.where(flat, place[:, 0], along)
    row = np.floor(across)
    joint = ((along + 0.5 * (row % 2)) % 1 < 0.06) | (across % 1 < 0.1)
    return joint.astype(float)


def _noise(place: np.ndarray) -> np.ndarray:
    """Value noise in [0, 1]: smooth between random numbers at integer points."""
    corner = np.floor(place).astype(np.int64)
    rest = place - corner
    rest = rest * rest * (3 - 2 * rest)
    total = np.zeros(len(place))
    for index in range(8):
        step = np.array([index & 1, index >> 1 & 1, index >> 2])
        weight = np.prod(np.where(step, rest, 1 - rest), axis=1)
        total += weight * _hash(corner + step)
    return total


def _hash(corner: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for every integer point; 32-bit arithmetic, the same on every machine."""
    mixed = corner @ np.array([73856093, 19349663, 83492791], np.int64)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177 & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF) / 65536


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    place = (hue * 6 + np.array([0, 4, 2])) % 6
    ramp = np.clip(np.abs(place - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - ramp))
