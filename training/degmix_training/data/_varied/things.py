"""Small things: what lies on floors and tables, each a function of a stage and a size.

A thing stands on the origin of the current frame; `size` is about half its width in metres.
"""

from __future__ import annotations

import numpy as np

from degmix_training.data._varied.materials import colour, solid
from degmix_training.data._varied.stage import Stage, towards, yaw

SIDEWAYS = towards(np.array([1.0, 0.0, 0.0]))


def box(stage: Stage, size: float) -> None:
    """A box; some carry a label, some have an open lid."""
    rng = stage.rng
    half = size * rng.uniform(0.5, 1.3, 3)
    cover = stage.material()
    stage.box((0, 0, half[2]), half, cover)
    if rng.random() < 0.3:
        label = stage.material(textures=("text", "page", "color"))
        stage.box((0, 0, 1.02 * half[2]), (0.5 * half[0], 1.01 * half[1], 0.6 * half[2]), label)
    elif rng.random() < 0.2:
        lean = towards(np.array([0.5, 0.0, 1.0]))
        stage.box((-half[0], 0, 2.2 * half[2]), (0.3 * half[0], half[1], 0.005), cover, lean)


def ball(stage: Stage, size: float) -> None:
    """A ball, some of two colours."""
    cover = stage.material()
    stage.ellipsoid((0, 0, size), (size, size, size), cover)


def cylinder(stage: Stage, size: float) -> None:
    """A can, a pole or a roll, upright or lying."""
    rng, cover = stage.rng, stage.material()
    half = size * rng.uniform(0.5, 2.2)
    if rng.random() < 0.75:
        stage.cylinder((0, 0, half), size, half, cover)
        if rng.random() < 0.4:
            stage.cylinder((0, 0, 2 * half), 0.94 * size, 0.01 * size, stage.material())
    else:
        stage.cylinder((0, 0, 0.6 * size), 0.6 * size, half, cover, turn=SIDEWAYS)


def mug(stage: Stage, size: float) -> None:
    """A cup with a drink and a handle, some on a saucer with a spoon."""
    rng, china = stage.rng, stage.material(solid(colour(stage.look, (0.2, 0.95), 3), 0.5))
    ground = 0.0
    if rng.random() < 0.5:
        ground = 0.12 * size
        stage.cone((0, 0, 0), (0.8 * size, 1.7 * size), ground, china)
        if rng.random() < 0.6:
            metal = stage.material(solid(np.full(3, 0.6), 0.7))
            spoon = ground + 0.08 * size
            stage.tube(
                (1.2 * size, -size, spoon),
                (1.2 * size, 0.7 * size, spoon),
                (0.07 * size,) * 2,
                metal,
            )
            stage.ellipsoid(
                (1.2 * size, 0.9 * size, spoon), (0.2 * size, 0.35 * size, 0.1 * size), metal
            )
    height = size * rng.uniform(1.0, 2.0)
    wide = size * rng.uniform(0.9, 1.25)
    stage.cone((0, 0, ground), (0.75 * size, wide), height, china, caps=(True, False))
    drink = stage.material(solid(np.array([0.18, 0.08, 0.03]) * stage.look.uniform(0.3, 4), 0.5))
    stage.cylinder((0, 0, ground + 0.82 * height), 0.93 * wide, 0.005, drink)
    if rng.random() < 0.8:
        stage.ring((wide, 0, ground + 0.5 * height), 0.35 * height, 0.09 * height, china, UPRIGHT)


UPRIGHT = np.stack((np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), np.array([0, -1.0, 0])), axis=1)
"""A ring in the plane of x and z."""


def bowl(stage: Stage, size: float) -> None:
    """A bowl, some with fruit."""
    rng, china = stage.rng, stage.material()
    height = size * rng.uniform(0.5, 0.9)
    stage.revolved(
        (0, 0, 0),
        (0.2 * size**2, 0.8 * size**2 / height, 0.0),
        (0, height),
        china,
        caps=(True, False),
    )
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(-0.4, 0.4, 2) * size
        fruit = stage.material(solid(colour(stage.look, (0.3, 0.9), 0.8), 0.3))
        radius = size * rng.uniform(0.25, 0.4)
        stage.ellipsoid((x, y, 0.7 * height + 0.3 * radius), (radius, radius, 0.95 * radius), fruit)


def bottle(stage: Stage, size: float) -> None:
    """A bottle with a neck and a cap."""
    rng = stage.rng
    glass, wide, tall = stage.material(), 0.5 * size, size * rng.uniform(1.2, 2.2)
    stage.cylinder((0, 0, tall / 2), wide, tall / 2, glass)
    neck = size * rng.uniform(0.4, 0.8)
    stage.cone((0, 0, tall), (wide, 0.35 * wide), neck, glass)
    top = stage.material()
    stage.cylinder((0, 0, tall + neck + 0.15 * size), 0.38 * wide, 0.15 * size, top)


def vase(stage: Stage, size: float) -> None:
    """A vase or a jar: a barrel or an hourglass."""
    rng, clay = stage.rng, stage.material()
    height = size * rng.uniform(1.2, 3.0)
    bulge = rng.uniform(-1.0, 1.5)
    foot = (0.45 * size) ** 2
    profile = (foot, 4 * bulge * foot / height * 2, -4 * bulge * foot / height**2 * 2)
    if bulge < 0:  # the waist stays open
        profile = (foot * 2, -4 * foot / height, 4 * foot / height**2)
    stage.revolved((0, 0, 0), profile, (0, height), clay, caps=(True, False))


def cone(stage: Stage, size: float) -> None:
    """A cone, some with a board under it, as on roads."""
    rng, cover = stage.rng, stage.material()
    tip = 0.0 if rng.random() < 0.6 else 0.4 * size
    stage.cone((0, 0, 0.02), (0.8 * size, tip), size * rng.uniform(1.2, 3), cover)
    if rng.random() < 0.5:
        stage.box((0, 0, 0.01), (size, size, 0.01), cover)


def ring(stage: Stage, size: float) -> None:
    """A ring that lies or leans."""
    thick = size * stage.rng.uniform(0.15, 0.35)
    cover = stage.material()
    if stage.rng.random() < 0.6:
        stage.ring((0, 0, thick), size - thick, thick, cover)
    else:
        stage.ring((0, 0, size), size - thick, thick, cover, UPRIGHT)


def pyramid(stage: Stage, size: float) -> None:
    """A pyramid with 3 to 6 sides."""
    rng = stage.rng
    count, height = int(rng.integers(3, 7)), size * rng.uniform(0.8, 2.0)
    _tapered(stage, count, size, 0.0 if rng.random() < 0.6 else 0.5 * size, height)


def prism(stage: Stage, size: float) -> None:
    """An upright prism with 3, 5, 6 or 8 sides."""
    rng = stage.rng
    _tapered(stage, int(rng.choice((3, 5, 6, 8))), size, size, size * rng.uniform(0.5, 2.5))


def _tapered(stage: Stage, count: int, low: float, high: float, height: float) -> None:
    angles = 2 * np.pi * np.arange(count) / count
    around = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    middle = angles + np.pi / count
    inner = np.cos(np.pi / count)
    slope = (low - high) * inner / height
    sides = np.stack((np.cos(middle), np.sin(middle), np.full(count, slope)), axis=1)
    sides /= np.sqrt(1 + slope * slope)
    limits = np.full(count, low * inner / np.sqrt(1 + slope * slope))
    faces = np.concatenate((sides, [[0, 0, -1], [0, 0, 1]]))
    points = np.concatenate(
        (
            np.column_stack((low * around, np.zeros(count))),
            np.column_stack((high * around, np.full(count, height))),
        )
    )
    stage.convex(points, faces, np.array([*limits, 0.0, height]), stage.material())


def rock(stage: Stage, size: float) -> None:
    """A random convex solid on the ground."""
    rng = stage.rng
    faces = rng.normal(size=(14, 3))
    faces /= np.sqrt(np.sum(faces**2, axis=1, keepdims=True))
    flat = rng.uniform(0.5, 1.0)
    limits = size * rng.uniform(0.65, 1.0, 14) * np.where(np.abs(faces[:, 2]) > 0.6, flat, 1.0)
    lift = 0.45 * size * flat
    limits = np.append(limits + faces[:, 2] * lift, 0.0)
    faces = np.concatenate((faces, [[0, 0, -1]]))
    reach = 2.2 * size
    points = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)]) * reach
    stone = stage.material(textures=("gravel", "moon", "clouds", "marble", "stones"))
    stage.convex(points * (0.6, 0.6, 0.8), faces, limits, stone)


def books(stage: Stage, size: float) -> None:
    """A stack of books, or a few that stand."""
    rng, paper = stage.rng, stage.material(solid(np.array([0.8, 0.77, 0.68])))
    ground = 0.0
    for _ in range(int(rng.integers(1, 5))):
        half = size * rng.uniform((0.6, 0.8, 0.06), (0.9, 1.2, 0.2))
        turn, cover = yaw(rng.uniform(-0.4, 0.4)), stage.material()
        stage.box((0, 0, ground + half[2]), half * (0.97, 0.97, 0.85), paper, turn)
        for side in (0.93, -0.93):
            at = (0, 0, ground + half[2] * (1 + side))
            stage.box(at, half * (1, 1, 0.08), cover, turn)
        ground += 2 * half[2]


def screen(stage: Stage, size: float) -> None:
    """A laptop, or a monitor on a foot."""
    rng = stage.rng
    shell, glass = stage.material(), stage.material(textures=("page", "color", "hubble", "text"))
    if rng.random() < 0.5:
        stage.box((0.4 * size, 0, 0.015), (0.7 * size, size, 0.015), shell)
        lift = 0.62 * size + 0.03
    else:
        stage.cylinder((0, 0, 0.01), 0.4 * size, 0.01, shell)
        stage.box((-0.05 * size, 0, 0.35 * size), (0.03 * size, 0.06 * size, 0.35 * size), shell)
        lift = 1.1 * size
    upright = _tilted(rng.uniform(-0.3, 0.1))
    stage.box((-0.3 * size, 0, lift), (0.025, size, 0.62 * size), shell, upright)
    stage.box((-0.3 * size, 0, lift), (0.028, 0.95 * size, 0.57 * size), glass, upright)


def _tilted(angle: float) -> np.ndarray:
    """A rotation about y."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def lamp(stage: Stage, size: float) -> None:
    """A lamp with a foot, a pole and a shade."""
    rng, metal = stage.rng, stage.material()
    tall = size * rng.uniform(2, 4)
    stage.cylinder((0, 0, 0.03 * size), 0.6 * size, 0.03 * size, metal)
    stage.cylinder((0, 0, tall / 2), 0.06 * size, tall / 2, metal)
    shade = stage.material(solid(colour(stage.look, (0.5, 1), 4), glow=stage.look.uniform(0, 1)))
    stage.cone(
        (0, 0, tall - 0.4 * size),
        (0.9 * size, rng.uniform(0.3, 0.8) * size),
        size,
        shade,
        caps=(False, False),
    )


def blocks(stage: Stage, size: float) -> None:
    """A pile of toy blocks and balls."""
    rng = stage.rng
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(-0.8, 0.8, 2) * size
        small, cover = size * rng.uniform(0.2, 0.4), stage.material()
        if rng.random() < 0.6:
            stage.box((x, y, small), (small, small, small), cover, yaw(rng.uniform(0, 3)))
        else:
            stage.ellipsoid((x, y, small), (small, small, small), cover)


def shape(stage: Stage, size: float) -> None:
    """An ellipsoid, a dome or a lens."""
    rng, cover = stage.rng, stage.material()
    radii = size * rng.uniform(0.5, 1.3, 3)
    if rng.random() < 0.5:
        stage.ellipsoid((0, 0, radii[2]), tuple(radii), cover)
    else:
        stage.ellipsoid((0, 0, 0), tuple(radii), cover, ends=(0.0, 1.0))


def cushion(stage: Stage, size: float) -> None:
    """A cushion, a bag or a folded cloth: a squashed ellipsoid that leans."""
    rng, cover = stage.rng, stage.material(textures=("cloth", "plaid", "stripes", "clouds"))
    flat = size * rng.uniform(0.25, 0.5)
    turn = _tilted(rng.uniform(-0.9, 0.9))
    stage.ellipsoid(
        (0, 0, 0.7 * size), (size, size * rng.uniform(0.8, 1.2), flat), cover, turn=turn
    )


PLAIN = {"box": box, "ball": ball, "cylinder": cylinder}
"""By the class that they have had since the plain scenes."""
OBJECTS = (
    mug,
    bowl,
    bottle,
    vase,
    cone,
    ring,
    pyramid,
    prism,
    rock,
    books,
    screen,
    lamp,
    blocks,
    shape,
    cushion,
)
ON_TABLES = (mug, mug, mug, bowl, bottle, vase, books, screen, lamp, blocks, shape, ring, pyramid)


def thing(
    stage: Stage, place: tuple[float, float, float], size: float, *, on_table: bool = False
) -> None:
    """A random thing: half are boxes, balls and cylinders, half are anything else."""
    rng = stage.rng
    turn = yaw(rng.uniform(0, 2 * np.pi))
    if rng.random() < (0.35 if on_table else 0.5):
        kind = str(rng.choice(tuple(PLAIN)))
        with stage.object(kind, place, turn):
            PLAIN[kind](stage, size)
        return
    makers = ON_TABLES if on_table else OBJECTS
    maker = makers[int(rng.integers(len(makers)))]
    with stage.object("object", place, turn):
        maker(stage, size)
