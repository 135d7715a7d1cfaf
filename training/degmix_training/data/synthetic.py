"""Synthetic indoor scenes with exact labels for all six tasks; ships with the code.

A box-shaped room with doors and pictures, tables, boxes, balls, cylinders and people, ray cast in
numpy with one ray a pixel. Labels come from geometry, so they have no noise. The same seed gives
the same scene everywhere.

Conventions:
    edge: occlusions (another object in front), creases (a surface turns by more than 25 degrees)
        and the outlines of doors and pictures; the nearer pixel of a pair is marked, so edges are 1
        to 2 px wide.
    saliency: people; without people, the object that covers most pixels, weighted towards the
        centre.
    normals: the camera's optical frame, x right, y down, z forward.
    depth: along the optical axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_training.data._layout import (
    FIRST_INSTANCE,
    PART_CLASSES,
    PERSON,
    SEMSEG_CLASSES,
    Layout,
)
from degmix_training.data._raycast import room
from degmix_training.data._sample import Sample
from degmix_training.data._store import rendered
from degmix_training.data._texture import Material, draw, paint

CLASSES: dict[str, tuple[str, ...]] = {
    "semseg": SEMSEG_CLASSES,
    "human_parts": PART_CLASSES,
    "saliency": (),
    "normals": (),
    "edge": (),
    "depth": (),
}
FIRST_SEED = {"train": 0, "val": 1_000_000, "test": 2_000_000}
WALL, FLOOR, CEILING, DOOR, PICTURE = range(5)
CREASE = np.cos(np.deg2rad(25))
JUMP = 0.06
"""Depth step of an occlusion inside one object: fraction of depth beyond its slope's."""
LARGEST = 4096


@dataclass(frozen=True)
class Scene:
    """One scene: an image and its labels, `(H, W, ...)`; see `Sample` for their conventions."""

    image: np.ndarray
    semseg: np.ndarray
    human_parts: np.ndarray
    saliency: np.ndarray
    normals: np.ndarray
    edge: np.ndarray
    depth: np.ndarray
    seed: int

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """By task."""
        return {task: getattr(self, task) for task in CLASSES}


class _Camera(NamedTuple):
    origin: np.ndarray  # (3,) metres
    turn: np.ndarray  # (3, 3): columns are right, down, forward in world axes
    focal: float  # pixels


class _Buffers(NamedTuple):
    """What every pixel sees, flat `(P, ...)`."""

    t: np.ndarray
    normals: np.ndarray
    semseg: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    material: np.ndarray


def open_split(split: str, count: int, height: int, width: int) -> Sequence[Sample]:
    """`count` scenes of a split, rendered once and kept on disk. Splits have no seed in common."""
    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + count)
    return rendered(f"synthetic-{split}", partial(sample, height=height, width=width), seeds)


def sample(seed: int, height: int, width: int) -> Sample:
    """Scene `seed` as a sample."""
    scene = render(seed, height, width)
    return Sample(f"scene {seed}", scene.image, scene.labels)


def render(seed: int, height: int = 192, width: int = 256) -> Scene:
    """Render scene `seed` at `(height, width)` pixels.

    Raises:
        ConfigError: A side is not between 1 and 4096.
    """
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise ConfigError(f"scene size {height}x{width}: expected sides from 1 to {LARGEST} pixels")
    rng = np.random.Generator(np.random.PCG64(seed))
    size = np.array([rng.uniform(3.5, 7), rng.uniform(3.5, 7), rng.uniform(2.3, 3.2)])
    camera = _camera(rng, size, height)
    layout = _furnish(rng, size, camera)
    rays = _rays(camera, height, width)
    seen = _cast(rng, camera, layout, size, rays, (height, width))
    image = _shade(rng, camera, size, seen, rays, layout.materials)
    normals = seen.normals @ camera.turn
    grid = (height, width)
    return Scene(
        image=_develop(rng, image.reshape(*grid, 3)),
        semseg=seen.semseg.reshape(grid),
        human_parts=seen.part.reshape(grid),
        saliency=_saliency(seen, grid),
        normals=normals.reshape(*grid, 3).astype(np.float32),
        edge=_edges(seen, normals, camera.focal, grid),
        depth=seen.t.reshape(grid).astype(np.float32),
        seed=seed,
    )


def _camera(rng: np.random.Generator, size: np.ndarray, height: int) -> _Camera:
    """Near one end of the room, looking to the other."""
    yaw = rng.uniform(0, 2 * np.pi)
    pitch, roll = rng.uniform(-0.05, 0.3), rng.normal(0, 0.03)
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    level = np.array([np.sin(yaw), -np.cos(yaw), 0])
    down = np.array(
        [
            forward[1] * level[2] - forward[2] * level[1],
            forward[2] * level[0] - forward[0] * level[2],
            forward[0] * level[1] - forward[1] * level[0],
        ]
    )
    right = np.cos(roll) * level + np.sin(roll) * down
    down = np.cos(roll) * down - np.sin(roll) * level
    origin = size / 2 - forward * size * rng.uniform(0.3, 0.42)
    origin[2] = rng.uniform(0.9, 1.7)
    origin[:2] = np.clip(origin[:2], 0.3, size[:2] - 0.3)
    view = np.deg2rad(rng.uniform(45, 65))
    return _Camera(origin, np.stack((right, down, forward), axis=1), height / 2 / np.tan(view / 2))


def _rays(camera: _Camera, height: int, width: int) -> np.ndarray:
    """`(P, 3)` in world axes, one unit deep."""
    y, x = np.mgrid[0:height, 0:width].reshape(2, -1)
    x = (x + 0.5 - width / 2) / camera.focal
    y = (y + 0.5 - height / 2) / camera.focal
    right, down, forward = camera.turn.T
    return x[:, None] * right + y[:, None] * down + forward


def _furnish(rng: np.random.Generator, size: np.ndarray, camera: _Camera) -> Layout:
    layout = Layout(rng)
    taken: list[tuple[np.ndarray, float]] = []
    forward, right = camera.turn[:2, 2], camera.turn[:2, 0]

    def place(radius: float, low: float, high: float) -> np.ndarray | None:
        """A free spot on the floor in front of the camera."""
        for _ in range(12):
            ahead = rng.uniform(low, high)
            spot = camera.origin[:2] + ahead * forward + rng.uniform(-0.6, 0.6) * ahead * right
            free = all(np.sum((spot - p) ** 2) > (radius + r) ** 2 for p, r in taken)
            if free and (spot > radius).all() and (spot < size[:2] - radius).all():
                taken.append((spot, radius))
                return spot
        return None

    for _ in range(int(rng.choice(4, p=(0.2, 0.4, 0.3, 0.1)))):
        if (spot := place(0.3, 1.2, 4.5)) is not None:
            layout.person(*spot)
    for _ in range(int(rng.integers(0, 3))):
        if (spot := place(0.7, 1.6, 4.5)) is not None:
            top = layout.table(*spot)
            for _ in range(int(rng.integers(0, 3))):
                layout.thing(*(spot + rng.uniform(-0.22, 0.22, 2)), top, rng.uniform(0.06, 0.12))
    for _ in range(int(rng.integers(2, 6))):
        if (spot := place(0.35, 1.0, 5.0)) is not None:
            layout.thing(*spot, 0.0, rng.uniform(0.12, 0.32))
    return layout


def _cast(
    rng: np.random.Generator,
    camera: _Camera,
    layout: Layout,
    size: np.ndarray,
    rays: np.ndarray,
    grid: tuple[int, int],
) -> _Buffers:
    t, normals, axis, side = room(camera.origin, rays, size)
    semseg = np.where(axis < 2, WALL, np.where(side, CEILING, FLOOR)).astype(np.uint8)
    instance = (2 * axis + side).astype(np.int32)
    material = layout.materials + np.where(axis < 2, 0, np.where(side, 1, 2))
    layout.materials += 3
    points = camera.origin + t[:, None] * rays
    _hang(rng, layout, size, points, instance, semseg, material)
    seen = _Buffers(t, normals, semseg, np.zeros(len(t), np.uint8), instance, material)
    pixels = np.arange(len(t)).reshape(grid)
    for thing in layout.primitives:
        window = _window(camera, thing.centre, thing.radius, grid)
        index = pixels[window].ravel()
        if not len(index):
            continue
        depth, normal = thing.hit(camera.origin, rays[index])
        nearer = depth < seen.t[index]
        index = index[nearer]
        seen.t[index], seen.normals[index] = depth[nearer], normal[nearer]
        seen.semseg[index], seen.part[index] = thing.semseg, thing.part
        seen.instance[index], seen.material[index] = thing.instance, thing.material
    return seen


def _hang(
    rng: np.random.Generator,
    layout: Layout,
    size: np.ndarray,
    points: np.ndarray,
    instance: np.ndarray,
    semseg: np.ndarray,
    material: np.ndarray,
) -> None:
    """Doors and pictures: rectangles of wall, known by where a ray meets it."""
    free = 6
    for face in range(4):
        on_face = instance == face
        along = points[:, 1 - face // 2]
        length = size[1 - face // 2]
        high = points[:, 2]
        if rng.random() < 0.6:
            left = rng.uniform(0.2, length - 1.2)
            inside = (along > left) & (along < left + rng.uniform(0.8, 1.0)) & (high < 2.05)
            _mark(layout, on_face & inside, DOOR, free, instance, semseg, material)
            free += 1
        for _ in range(int(rng.integers(0, 3))):
            left, low = rng.uniform(0.2, length - 1.0), rng.uniform(0.9, 1.5)
            wide, tall = rng.uniform(0.3, 1.1), rng.uniform(0.3, 0.8)
            inside = (along > left) & (along < left + wide) & (high > low) & (high < low + tall)
            free_wall = on_face & inside & (semseg == WALL)
            _mark(layout, free_wall, PICTURE, free, instance, semseg, material)
            free += 1


def _mark(
    layout: Layout,
    where: np.ndarray,
    kind: int,
    number: int,
    instance: np.ndarray,
    semseg: np.ndarray,
    material: np.ndarray,
) -> None:
    instance[where], semseg[where], material[where] = number, kind, layout.material()


def _window(
    camera: _Camera, centre: np.ndarray, radius: float, grid: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns that can see a bounding sphere."""
    x, y, z = (centre - camera.origin) @ camera.turn
    if z < radius + 0.05:
        return (slice(None), slice(None)) if z > -radius else (slice(0), slice(0))
    reach = camera.focal * radius / (z - radius) + 1
    row, column = (camera.focal * v / z + side / 2 for v, side in ((y, grid[0]), (x, grid[1])))
    # The sphere's picture is off its centre's by at most the reach again, at the image's border.
    spans = ((row - 1.6 * reach, row + 1.6 * reach), (column - 1.6 * reach, column + 1.6 * reach))
    rows, columns = (
        slice(int(np.clip(a, 0, n)), int(np.clip(b + 1, 0, n)))
        for (a, b), n in zip(spans, grid, strict=True)
    )
    return rows, columns


def _shade(
    rng: np.random.Generator,
    camera: _Camera,
    size: np.ndarray,
    seen: _Buffers,
    rays: np.ndarray,
    num_materials: int,
) -> np.ndarray:
    """Linear RGB `(P, 3)`: texture under ambient light and up to three lamps."""
    points = camera.origin + seen.t[:, None] * rays
    base = np.zeros_like(points)
    gloss = np.zeros(len(points))
    for index in range(num_materials):
        material = draw(rng, large=index >= num_materials - 3)
        chosen = np.flatnonzero(seen.material == index)
        if len(chosen):
            base[chosen] = _paint(rng, material, points[chosen], seen, chosen)
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
        facing = np.maximum(np.sum(towards * seen.normals, axis=1), 0)
        light = light + (power * facing)[:, None]
        half = towards + to_eye
        half /= np.sqrt(np.sum(half**2, axis=1, keepdims=True))
        shine += power * np.maximum(np.sum(half * seen.normals, axis=1), 0) ** 32
    return base * light + (gloss * shine)[:, None]


def _paint(
    rng: np.random.Generator,
    material: Material,
    points: np.ndarray,
    seen: _Buffers,
    chosen: np.ndarray,
) -> np.ndarray:
    colours = paint(material, points, seen.normals[chosen])
    if seen.semseg[chosen[0]] == PERSON and seen.part[chosen[0]] in (1, 4):
        # Skin and hair come in their own colours.
        tone = np.array([0.9, 0.68, 0.53]) * rng.uniform(0.25, 1.0)
        colours = 0.8 * tone + 0.2 * colours
    return colours


def _develop(rng: np.random.Generator, linear: np.ndarray) -> np.ndarray:
    """Exposure, white balance, vignette, noise and gamma: uint8 `(H, W, 3)`."""
    height, width = linear.shape[:2]
    exposure = rng.uniform(0.45, 0.65) / max(float(np.mean(linear)), 1e-3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1 - rng.uniform(0, 0.25) * (x * x + y * y)[..., None]
    bright = linear * exposure * vignette * rng.uniform(0.88, 1.12, 3)
    noise = rng.normal(0, rng.uniform(0.002, 0.02), linear.shape)
    return (255 * np.clip(np.clip(bright, 0, 1) ** (1 / 1.6) + noise, 0, 1)).astype(np.uint8)


def _saliency(seen: _Buffers, grid: tuple[int, int]) -> np.ndarray:
    people = seen.semseg == PERSON
    if people.sum() > 0.005 * len(people):
        return people.reshape(grid).astype(np.uint8)
    y, x = np.mgrid[-1 : 1 : grid[0] * 1j, -1 : 1 : grid[1] * 1j]
    weight = np.exp(-1.5 * (x * x + y * y)).ravel()
    things = seen.instance >= FIRST_INSTANCE
    share = np.bincount(seen.instance[things], weights=weight[things], minlength=1)
    best = int(np.argmax(share)) if len(share) else 0
    return (things & (seen.instance == best)).reshape(grid).astype(np.uint8)


def _edges(seen: _Buffers, normals: np.ndarray, focal: float, grid: tuple[int, int]) -> np.ndarray:
    """Mark the nearer pixel of every pair of neighbours that an edge parts."""
    depth, instance = seen.t.reshape(grid), seen.instance.reshape(grid)
    part = seen.part.reshape(grid)
    turned = normals.reshape(*grid, 3)
    y, x = np.mgrid[0 : grid[0], 0 : grid[1]]
    view = np.stack(((x + 0.5 - grid[1] / 2) / focal, (y + 0.5 - grid[0] / 2) / focal), axis=-1)
    view = np.concatenate((view, np.ones((*grid, 1))), axis=-1)
    edge = np.zeros(grid, bool)
    for axis in (0, 1):
        a, b = ((slice(None), slice(0, -1)), (slice(None), slice(1, None)))
        if axis == 0:
            a, b = a[::-1], b[::-1]
        # Where a's tangent plane would be met by b's ray: a slope is no step.
        along = np.sum(turned[a] * view[a], axis=-1) * depth[a]
        expected = along / np.minimum(np.sum(turned[a] * view[b], axis=-1), -1e-3)
        step = np.abs(depth[b] - expected) > JUMP * depth[a]
        crease = np.sum(turned[a] * turned[b], axis=-1) < CREASE
        same = (instance[a] == instance[b]) & (part[a] == part[b])
        parted = (
            (instance[a] != instance[b]) | (step & (crease | ~same)) | (crease & (part[a] == 0))
        )
        nearer = depth[a] <= depth[b]
        edge[a] |= parted & nearer
        edge[b] |= parted & ~nearer
    return edge.astype(np.uint8)
