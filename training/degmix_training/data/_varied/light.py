"""Rays of a camera or a lamp against all shapes, and the light of what they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from degmix_training.data._varied.materials import Material, paint
from degmix_training.data._varied.places import Setting, Style
from degmix_training.data._varied.shapes import NEAR, Shape
from degmix_training.data._varied.textures import bank
from degmix_training.data._view import Camera

MAP_SIDE = 160
"""Side of the shadow map in pixels."""
BIAS_M = 0.015
NOTHING = -1


def rays(camera: Camera, height: int, width: int) -> np.ndarray:
    """Directions `(3, H, W)` in world axes, one unit deep."""
    x = (np.arange(width) + 0.5 - width / 2) / camera.focal
    y = (np.arange(height) + 0.5 - height / 2) / camera.focal
    right, down, forward = camera.turn.T[:, :, None, None]
    directions: np.ndarray = right * x[None, None] + down * y[None, :, None] + forward
    return directions


def window(camera: Camera, bounds: np.ndarray, grid: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns that can see the hull of spheres `(K, 4)`; None where no pixel can."""
    centres, radius = (bounds[:, :3] - camera.origin) @ camera.turn, bounds[:, 3]
    near = centres[:, 2] - radius
    if (centres[:, 2] + radius < NEAR).all():
        return None
    if (near < NEAR).any():
        return slice(0, grid[0]), slice(0, grid[1])
    spans = []
    for axis, length in ((1, grid[0]), (0, grid[1])):
        # The tangents from the eye to a circle in the plane of the axis and the view.
        flat, deep = centres[:, axis], centres[:, 2]
        reach = radius * np.sqrt(flat**2 + deep**2 - radius**2)
        low, high = (flat * deep + sign * reach for sign in (-1, 1))
        slope = np.stack((low, high)) / (deep**2 - radius**2)
        start = np.floor(slope.min() * camera.focal + length / 2 - 0.5)
        stop = np.ceil(slope.max() * camera.focal + length / 2 + 0.5)
        if stop <= 0 or start >= length:
            return None
        spans.append(slice(max(0, int(start)), min(length, int(stop))))
    return spans[0], spans[1]


def cast(
    shapes: Sequence[Shape], camera: Camera, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth `(H, W)`, infinite where there is nothing, and the index of the shape that is seen."""
    grid = (directions.shape[1], directions.shape[2])
    depth, owner = np.full(grid, np.inf), np.full(grid, NOTHING, np.int32)
    for index, shape in enumerate(shapes):
        place = window(camera, shape.bounds, grid)
        if place is None:
            continue
        part = directions[(slice(None), *place)]
        t = shape.depths(camera.origin, part.reshape(3, -1)).reshape(part.shape[1:])
        nearer = t < depth[place]
        depth[place][nearer] = t[nearer]
        owner[place][nearer] = index
    return depth, owner


@dataclass(frozen=True)
class Seen:
    """What the pixels see, flat: P is their number.

    Attributes:
        points, normals: `(3, P)` in the world; zero where a ray meets nothing.
        colours: Linear RGB `(P, 3)` of the surfaces.
        gloss, glow: `(P,)`.
    """

    points: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    gloss: np.ndarray
    glow: np.ndarray


def look_at(
    shapes: Sequence[Shape],
    materials: Sequence[Material],
    camera: Camera,
    directions: np.ndarray,
    hits: tuple[np.ndarray, np.ndarray],
) -> Seen:
    """Normals, which face the camera, and colours of what `cast` found."""
    depth, owner = (array.ravel() for array in hits)
    flat = directions.reshape(3, -1)
    points = camera.origin[:, None] + np.where(owner == NOTHING, 0, depth) * flat
    normals = np.zeros_like(points)
    colours = np.zeros((len(depth), 3), np.float32)
    gloss, glow = np.zeros(len(depth), np.float32), np.zeros(len(depth), np.float32)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(shapes) + 1))
    for index, shape in enumerate(shapes):
        chosen = order[starts[index] : starts[index + 1]]
        if not len(chosen):
            continue
        some = points[:, chosen]
        normal = shape.normals(some)
        normals[:, chosen] = normal
        material = materials[shape.what.material]
        place = shape.surface(some, normal)
        footprint = float(np.median(depth[chosen])) / camera.focal
        colours[chosen] = paint(material, place, some, footprint)
        gloss[chosen], glow[chosen] = material.gloss, material.glow
    away = np.sum(normals * flat, axis=0) > 0
    normals[:, away] *= -1
    return Seen(points, normals, colours, gloss, glow)


def shade(
    seen: Seen,
    shapes: Sequence[Shape],
    setting: Setting,
    style: Style,
    rng: np.random.Generator,
) -> np.ndarray:
    """Linear RGB `(P, 3)`: ambient light from above and below, lamps, shadows and highlights."""
    up = (0.5 + 0.5 * seen.normals[2]).astype(np.float32)[:, None]
    above, below = (_tint(rng, style.tint) * rng.uniform(*span) for span in AMBIENT)
    light = above * up + below * (1 - up)
    view = setting.camera.origin[:, None] - seen.points
    view /= np.maximum(np.sqrt(np.sum(view**2, axis=0)), 1e-6)
    shine = np.zeros((seen.points.shape[1], 3), np.float32)
    for index, (lamp, power) in enumerate(setting.lamps):
        to_lamp = lamp[:, None] - seen.points
        square = np.sum(to_lamp**2, axis=0)
        to_lamp /= np.sqrt(square)
        fall = 1.0 if setting.is_outdoors else 1 / (0.4 + 0.12 * square)
        lit = power * np.maximum(np.sum(to_lamp * seen.normals, axis=0), 0) * fall
        if index == 0:
            lit *= 1 - rng.uniform(0.55, 1.0) * _shadow(seen, shapes, setting, lamp, rng)
        tint = _tint(rng, style.tint)
        light += lit.astype(np.float32)[:, None] * tint
        half = to_lamp + view
        half /= np.maximum(np.sqrt(np.sum(half**2, axis=0)), 1e-6)
        peak = np.maximum(np.sum(half * seen.normals, axis=0), 0) ** 40
        shine += (peak * lit).astype(np.float32)[:, None] * tint
    return seen.colours * (light + seen.glow[:, None]) + seen.gloss[:, None] * shine


AMBIENT = ((0.25, 0.6), (0.1, 0.35))


def _tint(rng: np.random.Generator, most: float) -> np.ndarray:
    warm = rng.uniform(-most, most)
    return np.array([1 + warm, 1 + rng.uniform(-0.25, 0.25) * most, 1 - warm], np.float32)


def _shadow(
    seen: Seen,
    shapes: Sequence[Shape],
    setting: Setting,
    lamp: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Share `(P,)` of the lamp's light that is blocked, soft at its border."""
    axis = setting.focus - lamp
    away = float(np.sqrt(axis @ axis))
    forward = axis / away
    other = np.array([1.0, 0, 0]) if abs(forward[0]) < 0.9 else np.array([0, 1.0, 0])
    right = np.cross(forward, other)
    right /= np.sqrt(right @ right)
    turn = np.stack((right, np.cross(forward, right), forward), axis=1)
    spread = min(1.4, setting.reach / max(away, 0.3))
    light = Camera(lamp, turn, MAP_SIDE / 2 / spread)
    depth, _ = cast(shapes, light, rays(light, MAP_SIDE, MAP_SIDE))
    x, y, z = turn.T @ (seen.points + BIAS_M * seen.normals - lamp[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        column = np.where(z > NEAR, x / z * light.focal + MAP_SIDE / 2 - 0.5, -9)
        row = np.where(z > NEAR, y / z * light.focal + MAP_SIDE / 2 - 0.5, -9)
    inside = (np.abs(column - MAP_SIDE / 2) < MAP_SIDE / 2 - 3) & (
        np.abs(row - MAP_SIDE / 2) < MAP_SIDE / 2 - 3
    )
    soft = rng.uniform(0.5, 1.6)
    blocked = np.zeros(len(x), np.float32)
    for down, aside in ((0, 0), (-1, -0.5), (1, 0.5), (-0.5, 1), (0.5, -1)):
        i = np.clip(np.rint(row + down * soft), 0, MAP_SIDE - 1).astype(np.int64)
        j = np.clip(np.rint(column + aside * soft), 0, MAP_SIDE - 1).astype(np.int64)
        blocked += depth[i, j] < 0.985 * z - BIAS_M
    return np.where(inside, blocked / 5, 0)


def sky(directions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB `(P, 3)` of directions `(3, P)` that meet nothing: a gradient and clouds."""
    length = np.sqrt(np.sum(directions**2, axis=0))
    height = np.clip(directions[2] / length, 0, 1)[:, None]
    blue = np.array([0.22, 0.42, 0.85]) * rng.uniform(0.5, 1.3)
    haze = np.array([0.75, 0.83, 0.95]) * rng.uniform(0.7, 1.2)
    if rng.random() < 0.35:
        blue = haze * rng.uniform(0.7, 1.0)
    if rng.random() < 0.1:
        haze = np.array([1.0, 0.6, 0.35]) * rng.uniform(0.6, 1.0)
    colours = haze + (blue - haze) * height**0.6
    clouds = [texture for texture in bank() if texture.name.startswith("pattern clouds")]
    texture = clouds[int(rng.integers(1, len(clouds)))]
    flat = directions[:2] / (np.abs(directions[2]) + 0.15 * length) * rng.uniform(0.05, 0.25)
    cover = texture.colours(flat + rng.random((2, 1)), 0.004)
    share = np.clip((cover - rng.uniform(0.3, 0.9)) * 3, 0, 1)
    mixed: np.ndarray = colours + (np.array([1.0, 1.0, 1.0]) - colours) * share
    return mixed
