"""Furniture and fittings, each a function of a stage; it stands on the origin of the frame."""

from __future__ import annotations

import numpy as np

from degmix_training.data._varied.materials import solid
from degmix_training.data._varied.stage import Stage, yaw
from degmix_training.data._varied.things import books, thing

WOODS = ("wood", "grain", "clouds", "marble")


def table(stage: Stage, half: tuple[float, float], top: float) -> None:
    """A table with four legs, or round with one foot; `half` are half its sides, metres."""
    rng = stage.rng
    wood = stage.material(textures=WOODS) if rng.random() < 0.6 else stage.material()
    thick = rng.uniform(0.012, 0.03)
    height = top - 2 * thick
    if rng.random() < 0.3:
        stage.cylinder((0, 0, top - thick), min(half), thick, wood)
        stage.cylinder((0, 0, height / 2), 0.05, height / 2, wood)
        stage.cone((0, 0, 0), (0.6 * min(half), 0.1), 0.05, wood)
        return
    stage.box((0, 0, top - thick), (*half, thick), wood)
    leg = rng.uniform(0.015, 0.04)
    is_round = rng.random() < 0.4
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (half[0] - 2 * leg), y * (half[1] - 2 * leg), height / 2)
            if is_round:
                stage.cylinder(at, leg, height / 2, wood)
            else:
                stage.box(at, (leg, leg, height / 2), wood)


def chair(stage: Stage) -> float:
    """A chair that faces along x; returns the height of its seat."""
    rng = stage.rng
    frame, cover = stage.material(), stage.material()
    seat, half = rng.uniform(0.4, 0.5), rng.uniform(0.19, 0.26)
    stage.box((0, 0, seat - 0.025), (half, half, 0.025), cover)
    back = rng.uniform(0.35, 0.6)
    if rng.random() < 0.6:
        stage.box((-half, 0, seat + 0.6 * back), (0.02, half, 0.4 * back), cover)
        for y in (-1, 1):
            stage.box((-half, y * (half - 0.02), seat + back / 2), (0.02, 0.02, back / 2), frame)
    else:
        for y in (-0.85, -0.3, 0.3, 0.85):
            stage.box((-half, y * half, seat + back / 2), (0.015, 0.02, back / 2), frame)
        stage.box((-half, 0, seat + back), (0.02, half, 0.04), frame)
    if rng.random() < 0.3:
        stage.cylinder((0, 0, seat / 2), 0.03, seat / 2, frame)
        stage.cone((0, 0, 0), (0.26, 0.04), 0.06, frame)
        return seat
    for x in (-1, 1):
        for y in (-1, 1):
            low = np.array([x * half, y * half, 0.015])
            stage.tube(low, (0.85 * low[0], 0.85 * low[1], seat - 0.05), (0.016, 0.02), frame)
    return seat


def sofa(stage: Stage) -> float:
    """A sofa or an armchair that faces along x; returns the height of its seat."""
    rng = stage.rng
    cover = stage.material(textures=("cloth", "clouds", "plaid", "stripes"))
    wide, deep, seat = rng.uniform(0.45, 1.0), rng.uniform(0.35, 0.45), rng.uniform(0.36, 0.46)
    stage.box((0, 0, seat / 2), (deep, wide, seat / 2), cover)
    stage.box((-0.85 * deep, 0, seat + 0.2), (0.15 * deep + 0.06, wide, 0.25), cover)
    for y in (-1, 1):
        stage.box((0, y * (wide - 0.08), seat + 0.08), (deep, 0.08, 0.12), cover)
        if rng.random() < 0.5:
            pillow = stage.material()
            at = (-0.45 * deep, y * 0.55 * wide, seat + 0.18)
            stage.ellipsoid(at, (0.1, 0.2, 0.2), pillow)
    return seat


def shelf(stage: Stage) -> None:
    """A shelf with things on its boards, its back at x = 0, open along x."""
    rng = stage.rng
    wood = stage.material(textures=WOODS) if rng.random() < 0.5 else stage.material()
    wide, deep, tall = rng.uniform(0.3, 0.8), rng.uniform(0.14, 0.2), rng.uniform(0.8, 2.0)
    stage.box((0.01, 0, tall / 2), (0.01, wide, tall / 2), wood)
    for y in (-1, 1):
        stage.box((deep, y * wide, tall / 2), (deep, 0.015, tall / 2), wood)
    count = int(rng.integers(3, 6))
    for index in range(count):
        z = 0.08 + (tall - 0.1) * index / (count - 1)
        stage.box((deep, 0, z), (deep, wide, 0.012), wood)
        if rng.random() < 0.75 and index < count - 1:
            y = rng.uniform(-0.6, 0.6) * wide
            size = rng.uniform(0.05, 0.09)
            if rng.random() < 0.5:
                with stage.object("object", (deep, y, z + 0.012), yaw(np.pi / 2)):
                    books(stage, 1.4 * size)
            else:
                thing(stage, (deep, y, z + 0.012), size, on_table=True)


def cabinet(stage: Stage) -> float:
    """A cabinet with doors and knobs, its back at x = 0; returns its height."""
    rng = stage.rng
    wood = stage.material(textures=WOODS) if rng.random() < 0.5 else stage.material()
    metal = stage.material(solid(np.full(3, stage.look.uniform(0.1, 0.7)), 0.7))
    wide, deep, tall = rng.uniform(0.3, 0.8), rng.uniform(0.18, 0.3), rng.uniform(0.6, 2.0)
    stage.box((deep, 0, tall / 2), (deep, wide, tall / 2), wood)
    count = int(rng.integers(1, 4))
    for index in range(count):
        y = wide * (2 * (index + 0.5) / count - 1)
        half = (0.012, wide / count - 0.015, tall / 2 - 0.03)
        with stage.object("shelf", (2 * deep, y, tall / 2)):
            stage.box((0, 0, 0), half, wood)
        stage.ellipsoid((2 * deep + 0.03, y + 0.7 * half[1], tall / 2), (0.02,) * 3, metal)
    return float(tall)


def door(stage: Stage, tall: float) -> None:
    """A door in the wall x = 0: a frame, a leaf with or without panels, a handle."""
    rng, look = stage.rng, stage.look
    frame, leaf = stage.material(), stage.material(textures=WOODS)
    metal = stage.material(solid(np.full(3, look.uniform(0.1, 0.7)), 0.7))
    half = rng.uniform(0.38, 0.52)
    for y in (-1, 1):
        stage.box((0, y * (half + 0.04), tall / 2), (0.04, 0.045, tall / 2), frame)
    stage.box((0, 0, tall + 0.04), (0.04, half + 0.085, 0.045), frame)
    stage.box((0, 0, tall / 2), (0.02, half, tall / 2), leaf)
    for z in (0.28, 0.72) if rng.random() < 0.5 else ():
        stage.box((0.02, 0, z * tall), (0.015, 0.65 * half, 0.17 * tall), leaf)
    side = 1 if rng.random() < 0.5 else -1
    stage.ellipsoid((0.06, side * 0.85 * half, 1.0), (0.03, 0.03, 0.03), metal)


def picture(stage: Stage) -> None:
    """A picture on the wall x = 0, centred on the origin."""
    rng = stage.rng
    half = rng.uniform(0.12, 0.5, 2)
    width = 1.0 if rng.random() < 0.25 else float(rng.uniform(0.03, 0.06)) / min(half)
    if width < 1:
        stage.box((0, 0, 0), (0.025, half[0], half[1]), stage.material())
    inner = half * max(0.3, 1 - width) if width < 1 else half
    art = stage.material(
        textures=(
            "moon",
            "retina",
            "ihc",
            "hubble",
            "color",
            "camera",
            "cell",
            "coins",
            "clock",
            "clouds",
            "marble",
            "page",
        )
    )
    stage.box((0, 0, 0), (0.028 if width < 1 else 0.01, *inner), art)


def window(stage: Stage) -> None:
    """A window in the wall x = 0, bright as outdoors, with a frame and a cross."""
    rng, look = stage.rng, stage.look
    half = rng.uniform((0.3, 0.35), (0.8, 0.75))
    sky = np.array([0.75, 0.88, 1.0]) * look.uniform(0.7, 1.4)
    if look.random() < 0.5:
        glass = stage.material(solid(sky, glow=1.2))
    else:
        glass = stage.material(textures=("grass", "leaves", "clouds"))
    frame = stage.material(solid(np.full(3, look.uniform(0.3, 0.9))))
    stage.box((0, 0, 0), (0.015, *half), glass)
    for y in (-1, 0, 1):
        stage.box((0, y * half[0], 0), (0.04, 0.03, half[1]), frame)
    for z in (-1, 1) if rng.random() < 0.5 else (-1, 0, 1):
        stage.box((0, 0, z * half[1]), (0.04, half[0], 0.03), frame)
