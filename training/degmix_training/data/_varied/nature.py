"""Plants and animals, each a function of a stage; they stand on the origin of the frame."""

from __future__ import annotations

import numpy as np

from degmix_training.data._varied.materials import Material, colour, draw, solid
from degmix_training.data._varied.stage import Stage, towards

LEAVES = ("grass", "leaves", "clouds")


def _green(stage: Stage) -> int:
    look = stage.look
    tint = np.array([0.35, 0.6, 0.15]) * look.uniform(0.3, 1.3) * look.uniform(0.8, 1.2, 3)
    if look.random() < 0.15:
        tint = colour(look, (0.2, 0.8), 1.0)
    base = draw(look, textures=LEAVES)
    return stage.material(
        Material("two", tint, 0.35 * tint, size=look.uniform(0.2, 0.8), texture=base.texture)
    )


def plant(stage: Stage, size: float) -> None:
    """A plant in a pot: a bush, a palm of blades, or a ball on a stem."""
    rng = stage.rng
    pot, green = stage.material(), _green(stage)
    tall = size * rng.uniform(0.6, 1.0)
    stage.cone((0, 0, 0), (0.35 * size, 0.5 * size), tall, pot)
    kind = rng.random()
    if kind < 0.4:
        for _ in range(int(rng.integers(5, 10))):
            at = rng.normal(0, 0.3, 3) * size + (0, 0, tall + 0.5 * size)
            stage.ellipsoid(at, tuple(size * rng.uniform(0.2, 0.45, 3)), green)
    elif kind < 0.75:
        for _ in range(int(rng.integers(6, 13))):
            angle, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.0)
            axis = np.array(
                [np.sin(lean) * np.cos(angle), np.sin(lean) * np.sin(angle), np.cos(lean)]
            )
            half = size * rng.uniform(0.4, 0.9)
            radii = (0.04 * size, size * rng.uniform(0.06, 0.14), half)
            stage.ellipsoid((0, 0, tall) + half * axis, radii, green, turn=towards(axis))
    else:
        stem = tall + size * rng.uniform(0.4, 1.2)
        stage.tube((0, 0, tall), (0, 0, stem), (0.05 * size, 0.04 * size), pot)
        stage.ellipsoid((0, 0, stem), (0.5 * size, 0.5 * size, 0.45 * size), green)


def tree(stage: Stage, tall: float) -> None:
    """A tree or a bush: a trunk, and a crown of ellipsoids or of cones."""
    rng = stage.rng
    bark = stage.material(
        Material(
            "two",
            colour(stage.look, (0.1, 0.4), 4),
            np.full(3, 0.05),
            size=0.5,
            texture=draw(stage.look, textures=("grain",)).texture,
        )
    )
    green, trunk = _green(stage), rng.uniform(0.0, 0.45) * tall
    wide = tall * rng.uniform(0.2, 0.4)
    stage.tube((0, 0, 0), (0, 0, max(trunk + 0.2 * tall, 0.1)), (0.04 * tall, 0.025 * tall), bark)
    if rng.random() < 0.3:
        for step in range(3):
            low = trunk + (tall - trunk) * 0.27 * step
            stage.cone((0, 0, low), (wide * (1 - 0.25 * step), 0), 0.46 * (tall - trunk), green)
        return
    for _ in range(int(rng.integers(4, 9))):
        middle = np.array([0, 0, (trunk + tall) / 2])
        at = middle + rng.normal(0, 1, 3) * (0.35 * wide, 0.35 * wide, 0.18 * (tall - trunk))
        stage.ellipsoid(at, tuple(wide * rng.uniform(0.45, 0.8, 3)), green)


def animal(stage: Stage, tall: float) -> np.ndarray:
    """A cat, a dog, a horse or something between; returns the place of its head in the world.

    It looks along x. `tall` is the height of its back in metres.
    """
    rng, look = stage.rng, stage.look
    tone = np.array([0.55, 0.38, 0.22]) * look.uniform(0.1, 1.7) * look.uniform(0.85, 1.15, 3)
    tone = np.full(3, look.uniform(0.03, 0.9)) if look.random() < 0.4 else np.clip(tone, 0, 1)
    fur = draw(look, textures=("fur", "spots", "clouds", "grain", "stripes"))
    other = np.clip(tone * look.uniform(0.2, 1.6), 0, 1)
    coat = stage.material(
        Material(
            "two",
            tone,
            other,
            size=tall * look.uniform(0.5, 2.0),
            texture=fur.texture,
            angle=fur.angle,
        )
    )
    thick = tall * rng.uniform(0.2, 0.3)
    long = tall * rng.uniform(0.6, 0.9)
    is_sitting = rng.random() < 0.35
    chest = np.array([0.5 * long, 0, 1.05 * tall if is_sitting else tall - thick])
    rump = np.array([-0.4 * long, 0, thick if is_sitting else tall - thick])
    stage.tube(rump, chest, (thick * rng.uniform(0.85, 1.1), thick), coat)
    head = chest + tall * np.array([rng.uniform(0.25, 0.5), 0, rng.uniform(0.2, 0.7)])
    size = tall * rng.uniform(0.17, 0.26)
    stage.tube(chest, head, (0.75 * thick, 0.7 * size), coat)
    for x, reach in ((0.42 * long, chest[2]), (-0.4 * long, rump[2])):
        for y in (-1, 1):
            swing = 0.0 if is_sitting else rng.uniform(-0.15, 0.15) * tall
            foot = (
                x + swing + (0.25 * long if is_sitting and x < 0 else 0),
                y * 0.6 * thick,
                0.03 * tall,
            )
            hip = (x, y * 0.6 * thick, 0.9 * reach)
            stage.tube(hip, foot, (0.36 * thick, 0.2 * thick), coat)
    tail = rump - (0.7 * thick, 0, -0.3 * thick)
    end = tail + tall * np.array(
        [-rng.uniform(0.1, 0.5), rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.7)]
    )
    stage.tube(tail, end, (0.22 * thick, 0.12 * thick), coat)
    animal_head(stage, head, size, coat)
    return stage.world(head)


def animal_head(stage: Stage, head: np.ndarray, size: float, coat: int) -> None:
    """A head that looks along x: a skull, a snout with a nose, eyes, ears."""
    rng, look = stage.rng, stage.look
    dark = stage.material(solid(np.full(3, 0.02), 0.7))
    iris = stage.material(solid(colour(look, (0.2, 0.8), 1.2), 0.7))
    inner = stage.material(solid(np.array([0.7, 0.4, 0.38]) * look.uniform(0.5, 1.2)))
    stage.ellipsoid(head, (1.05 * size, size, 0.95 * size), coat)
    long = size * rng.uniform(0.5, 1.6)
    low = head + (0.6 * size, 0, -0.3 * size)
    tip = head + (0.6 * size + long, 0, -0.4 * size)
    stage.tube(low, tip, (0.55 * size, size * rng.uniform(0.22, 0.42)), coat)
    stage.ellipsoid(
        tip + (0.28 * size, 0, 0.12 * size),
        (0.14 * size, 0.17 * size, 0.12 * size),
        dark if rng.random() < 0.6 else inner,
    )
    pointed = rng.random() < 0.6
    for y in (-1, 1):
        eye = head + size * np.array([0.78, 0.48 * y, 0.28])
        stage.ellipsoid(eye, (0.2 * size, 0.2 * size, 0.2 * size), iris)
        stage.ellipsoid(eye + size * np.array([0.15, 0.03 * y, 0]), (0.08 * size,) * 3, dark)
        root = head + size * np.array([-0.1, 0.55 * y, 0.6])
        if pointed:
            axis = np.array([0.1, 0.35 * y, 1.0])
            turn = towards(axis)
            tall = size * rng.uniform(0.7, 1.1)
            stage.cone(root, (0.42 * size, 0.03 * size), tall, coat, turn=turn)
            front = root + size * np.array([0.17, 0, 0.1])
            stage.cone(front, (0.28 * size, 0.02 * size), 0.8 * tall, inner, turn=turn)
        else:
            stage.ellipsoid(
                root + size * np.array([0, 0.45 * y, -0.5]),
                (0.3 * size, 0.14 * size, 0.65 * size),
                coat,
            )
