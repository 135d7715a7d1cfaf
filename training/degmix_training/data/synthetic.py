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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_training.data import _base
from degmix_training.data._labels import edges, saliency
from degmix_training.data._layout import PART_CLASSES, SEMSEG_CLASSES, Layout
from degmix_training.data._raycast import room
from degmix_training.data._sample import Sample, Samples
from degmix_training.data._shading import develop, shade
from degmix_training.data._store import rendered
from degmix_training.data._view import Buffers, Camera, rays_of, window

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
LARGEST = 4096


@dataclass(frozen=True)
class Scene:
    """One scene: an image and its labels `(H, W, ...)`, in the conventions of `Sample`.

    Attributes:
        intrinsics: The camera matrix `(3, 3)`, with pixel centres at whole coordinates.
    """

    image: np.ndarray
    semseg: np.ndarray
    human_parts: np.ndarray
    saliency: np.ndarray
    normals: np.ndarray
    edge: np.ndarray
    depth: np.ndarray
    seed: int
    intrinsics: np.ndarray

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """The labels by task."""
        return {task: getattr(self, task) for task in CLASSES}


class DataSet(_base.DataSet):
    """Scenes rendered at `size`, kept on disk. Splits have no seed in common."""

    name = "synthetic"
    title = "synthetic scenes"
    classes = CLASSES
    edge_tolerance = 0.011
    first_seed: Mapping[str, int] = FIRST_SEED
    default_count = MappingProxyType({"train": 2000, "val": 100, "test": 100})

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def open_split(self, split: str, tasks: Sequence[str], count: int | None = None) -> Samples:
        """`count` scenes of a split; they carry all labels, whatever `tasks` are."""
        if split not in self.first_seed:
            raise ConfigError(unknown(f"split of {self.name}", split, self.first_seed))
        height, width = self.size
        count = self.default_count[split] if count is None else count
        seeds = range(self.first_seed[split], self.first_seed[split] + count)
        make, stored = self.renderer()
        return rendered(f"{stored}-{split}", partial(make, height=height, width=width), seeds)

    def renderer(self) -> tuple[Callable[..., Sample], str]:
        """Return what renders the scene of a seed, and the name that its scenes are kept under."""
        return sample, self.name


def sample(seed: int, height: int, width: int) -> Sample:
    """Scene `seed` as a sample."""
    scene = render(seed, height, width)
    return Sample(f"scene {seed}", scene.image, scene.labels)


def render(
    seed: int,
    height: int = 192,
    width: int = 256,
    *,
    pose: np.ndarray | None = None,
    frame: int = 0,
) -> Scene:
    """Render scene `seed` at `(height, width)` pixels.

    Args:
        seed: Decides the scene and its camera.
        height: In pixels.
        width: In pixels.
        pose: Where the camera has moved to: `(4, 4)`, from points in it to points in the scene's
            own camera, in metres, with x right, y down and z forward. The scene stays the same.
            None is a scene of the data set, whose people may have other colours.
        frame: Number of a moved camera's picture, which has noise of its own.

    Raises:
        ConfigError: A side is not between 1 and 4096.
    """
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise ConfigError(f"scene size {height}x{width}: expected sides from 1 to {LARGEST} pixels")
    rng = np.random.Generator(np.random.PCG64(seed))
    size = np.array([rng.uniform(3.5, 7), rng.uniform(3.5, 7), rng.uniform(2.3, 3.2)])
    camera = _camera(rng, size, height)
    layout = _furnish(rng, size, camera)
    people, grain = None, None
    if pose is not None:
        people, grain = seed, np.random.default_rng((seed, frame))
        moved = camera.origin + camera.turn @ pose[:3, 3]
        camera = Camera(moved, camera.turn @ pose[:3, :3], camera.focal)
    rays = rays_of(camera, height, width)
    grid = (height, width)
    buffers = _cast(rng, camera, layout, size, rays, grid=grid)
    image = shade(rng, camera, size, buffers, rays, num_materials=layout.materials, people=people)
    normals = buffers.normals @ camera.turn
    return Scene(
        image=develop(rng, image.reshape(*grid, 3), grain),
        semseg=buffers.semseg.reshape(grid),
        human_parts=buffers.part.reshape(grid),
        saliency=saliency(buffers, grid),
        normals=normals.reshape(*grid, 3).astype(np.float32),
        edge=edges(buffers, normals, camera.focal, grid),
        depth=buffers.t.reshape(grid).astype(np.float32),
        seed=seed,
        intrinsics=np.array(
            # Pixel centres have whole coordinates.
            [[camera.focal, 0, width / 2 - 0.5], [0, camera.focal, height / 2 - 0.5], [0, 0, 1]]
        ),
    )


def _camera(rng: np.random.Generator, size: np.ndarray, height: int) -> Camera:
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
    return Camera(origin, np.stack((right, down, forward), axis=1), height / 2 / np.tan(view / 2))


def _furnish(rng: np.random.Generator, size: np.ndarray, camera: Camera) -> Layout:
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
    camera: Camera,
    layout: Layout,
    size: np.ndarray,
    rays: np.ndarray,
    *,
    grid: tuple[int, int],
) -> Buffers:
    """What each of the `grid`'s rays `(P, 3)` meets first; P is height times width."""
    t, normals, axis, side = room(camera.origin, rays, size)
    semseg = np.where(axis < 2, WALL, np.where(side, CEILING, FLOOR)).astype(np.uint8)
    instance = (2 * axis + side).astype(np.int32)
    material = layout.materials + np.where(axis < 2, 0, np.where(side, 1, 2))
    layout.materials += 3
    points = camera.origin + t[:, None] * rays
    buffers = Buffers(t, normals, semseg, np.zeros(len(t), np.uint8), instance, material)
    _hang(rng, layout, size, points, buffers)
    pixels = np.arange(len(t)).reshape(grid)
    for thing in layout.primitives:
        index = pixels[window(camera, thing.centre, thing.radius, grid)].ravel()
        if not len(index):
            continue
        depth, normal = thing.hit(camera.origin, rays[index])
        nearer = depth < buffers.t[index]
        index = index[nearer]
        buffers.t[index], buffers.normals[index] = depth[nearer], normal[nearer]
        buffers.semseg[index], buffers.part[index] = thing.semseg, thing.part
        buffers.instance[index], buffers.material[index] = thing.instance, thing.material
    return buffers


def _hang(
    rng: np.random.Generator,
    layout: Layout,
    size: np.ndarray,
    points: np.ndarray,
    walls: Buffers,
) -> None:
    """Hang doors and pictures: rectangles of wall, known by the points where rays meet it."""
    free = 6
    for face in range(4):
        on_face = walls.instance == face
        along = points[:, 1 - face // 2]
        length = size[1 - face // 2]
        high = points[:, 2]
        if rng.random() < 0.6:
            left = rng.uniform(0.2, length - 1.2)
            inside = (along > left) & (along < left + rng.uniform(0.8, 1.0)) & (high < 2.05)
            _mark(layout, on_face & inside, DOOR, free, walls)
            free += 1
        for _ in range(int(rng.integers(0, 3))):
            left, low = rng.uniform(0.2, length - 1.0), rng.uniform(0.9, 1.5)
            wide, tall = rng.uniform(0.3, 1.1), rng.uniform(0.3, 0.8)
            inside = (along > left) & (along < left + wide) & (high > low) & (high < low + tall)
            free_wall = on_face & inside & (walls.semseg == WALL)
            _mark(layout, free_wall, PICTURE, free, walls)
            free += 1


def _mark(layout: Layout, where: np.ndarray, kind: int, number: int, walls: Buffers) -> None:
    walls.instance[where], walls.semseg[where] = number, kind
    walls.material[where] = layout.material()
