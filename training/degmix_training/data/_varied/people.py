"""People of tubes and ellipsoids, with limbs, clothes, hair, hands, shoes and a face."""

from __future__ import annotations

import numpy as np

from degmix_training.data._layout import HEAD, LOWER_ARM, LOWER_LEG, TORSO, UPPER_ARM, UPPER_LEG
from degmix_training.data._varied.materials import Face, Material, colour, solid
from degmix_training.data._varied.stage import UP, Stage

TONES = np.array([[0.78, 0.55, 0.42], [0.6, 0.38, 0.26], [0.36, 0.2, 0.12], [0.14, 0.075, 0.045]])
AHEAD, ACROSS = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
Vector = np.ndarray


class Clothes:
    """Materials of one person, drawn from the stage."""

    def __init__(self, stage: Stage) -> None:
        rng, look = stage.rng, stage.look
        tone = TONES[int(look.integers(len(TONES)))] * look.uniform(0.75, 1.25)
        self.skin_tone = np.clip(tone, 0, 0.9)
        hair = np.array([0.3, 0.18, 0.08]) * look.uniform(0.03, 2.2)
        self.hair_tone = np.full(3, look.uniform(0.3, 0.8)) if look.random() < 0.15 else hair
        self.skin = stage.material(solid(self.skin_tone, 0.1))
        cloth = {"textures": ("cloth", "plaid", "stripes", "clouds")}
        self.shirt = stage.material(**(cloth if look.random() < 0.5 else {}))
        self.trousers = stage.material(**(cloth if look.random() < 0.3 else {}))
        self.shoe = stage.material(solid(colour(look, (0.02, 0.6))))
        self.hair = stage.material(
            Material("two", self.hair_tone, 0.5 * self.hair_tone, size=0.2, texture=0, gloss=0.1)
        )
        self.upper_sleeve = self.shirt if rng.random() < 0.8 else self.skin
        self.lower_sleeve = self.shirt if rng.random() < 0.5 else self.skin
        self.lower_leg = self.trousers if rng.random() < 0.8 else self.skin
        self.has_skirt = rng.random() < 0.15


def person(stage: Stage, *, seat: float | None = None, tall: float | None = None) -> Vector:
    """A person who looks along x, standing, walking or sitting; returns the head's place.

    Args:
        stage: Where the person is added, on the origin of its frame.
        seat: Height of the seat under a person who sits.
        tall: Height of the person who stands, in metres; None draws one.
    """
    rng, clothes = stage.rng, Clothes(stage)
    tall = tall or rng.uniform(1.1, 1.95)
    wide = rng.uniform(0.85, 1.2)
    hips = (0.52 * tall if seat is None else seat + 0.07 * tall) * UP
    lean = rng.uniform(-0.08, 0.15)
    spine = np.sin(lean) * AHEAD + np.cos(lean) * UP
    shoulders = hips + 0.28 * tall * spine
    _torso(stage, clothes, hips, shoulders, tall * wide)
    stride = rng.uniform(-0.5, 0.5)
    for side in (-1, 1):
        hip = hips + side * 0.052 * tall * wide * ACROSS
        if seat is None:
            _leg(stage, clothes, hip, tall, side * stride)
        else:
            _leg(stage, clothes, hip, tall, rng.uniform(1.25, 1.55), bend=rng.uniform(1.2, 1.6))
        shoulder = shoulders + side * 0.105 * tall * wide * ACROSS
        _arm(stage, clothes, shoulder, tall, side)
    return head(stage, clothes, shoulders + 0.125 * tall * spine, 0.066 * tall)


def _torso(stage: Stage, clothes: Clothes, hips: Vector, shoulders: Vector, tall: float) -> None:
    """Pelvis, chest, shoulders and neck; a skirt hangs from the waist."""
    spine = shoulders - hips
    long = float(np.sqrt(spine @ spine))
    ahead = AHEAD - (AHEAD @ spine) * spine / long**2
    ahead /= np.sqrt(ahead @ ahead)
    turn = np.stack((ahead, ACROSS, spine / long), axis=1)
    pelvis = (0.066 * tall, 0.086 * tall, 0.075 * tall)
    stage.ellipsoid(hips, pelvis, clothes.trousers, turn=turn, part=TORSO)
    low, high = 0.078 * tall, 0.102 * tall
    slope = (high - low) / long
    profile = (low * low, 2 * low * slope, slope * slope)
    stage.revolved(
        hips, profile, (0.02 * tall, long), clothes.shirt, turn=turn, scale=(0.68, 1.0), part=TORSO
    )
    breadth = 0.078 * tall * ACROSS
    radius = 0.04 * tall
    collar = shoulders - 0.008 * tall * UP
    stage.tube(collar - breadth, collar + breadth, (radius, radius), clothes.shirt, part=TORSO)
    neck = shoulders + 0.075 * tall * UP
    stage.tube(shoulders, neck, (0.035 * tall, 0.03 * tall), clothes.skin, part=TORSO)
    if clothes.has_skirt:
        low = hips - 0.2 * tall * UP
        profile = (0.17 * tall, -0.055 * tall / (0.24 * tall))
        a, b = profile
        stage.revolved(
            low, (a * a, 2 * a * b, b * b), (0.0, 0.24 * tall), clothes.trousers, part=UPPER_LEG
        )


def _leg(
    stage: Stage,
    clothes: Clothes,
    hip: Vector,
    tall: float,
    swing: float,
    *,
    bend: float | None = None,
) -> None:
    rng = stage.rng
    bend = rng.uniform(0, 0.5) if bend is None else bend
    thick = rng.uniform(0.03, 0.037) * tall
    knee = hip + 0.245 * tall * (np.sin(swing) * AHEAD - np.cos(swing) * UP)
    back = swing - bend
    ankle = knee + 0.235 * tall * (np.sin(back) * AHEAD - np.cos(back) * UP)
    ankle[2] = max(ankle[2], 0.03 * tall - stage.world((0, 0, 0))[2])
    cover = clothes.trousers if not clothes.has_skirt else clothes.skin
    stage.tube(hip, knee, (1.5 * thick, 1.1 * thick), cover, part=UPPER_LEG)
    stage.tube(knee, ankle, (1.1 * thick, 0.75 * thick), clothes.lower_leg, part=LOWER_LEG)
    toe = ankle + 0.085 * tall * AHEAD
    toe[2] = ankle[2] - 0.005 * tall
    stage.tube(ankle, toe, (0.75 * thick, 0.6 * thick), clothes.shoe, part=LOWER_LEG)


def _arm(stage: Stage, clothes: Clothes, shoulder: Vector, tall: float, side: int) -> None:
    rng = stage.rng
    lift = rng.uniform(0.05, 0.5) if rng.random() < 0.75 else rng.uniform(0.9, 2.7)
    ahead = rng.uniform(-0.4, 0.8)
    thick = rng.uniform(0.021, 0.027) * tall
    out = np.sin(lift) * (np.cos(ahead) * side * ACROSS + np.sin(ahead) * AHEAD)
    elbow = shoulder + 0.165 * tall * (out - np.cos(lift) * UP)
    bend = rng.uniform(0, 1.9)
    down = np.cos(bend) * (out - np.cos(lift) * UP)
    fore = down + np.sin(bend) * (0.9 * AHEAD - 0.25 * side * ACROSS + 0.3 * UP)
    fore /= np.sqrt(fore @ fore)
    wrist = elbow + 0.15 * tall * fore
    stage.tube(shoulder, elbow, (1.25 * thick, thick), clothes.upper_sleeve, part=UPPER_ARM)
    stage.tube(elbow, wrist, (thick, 0.7 * thick), clothes.lower_sleeve, part=LOWER_ARM)
    hand = wrist + 0.055 * tall * fore
    stage.tube(wrist, hand, (0.75 * thick, 0.85 * thick), clothes.skin, part=LOWER_ARM)


def head(stage: Stage, clothes: Clothes, centre: Vector, radius: float) -> Vector:
    """A head that looks along x, or a little to a side, with hair or a cap; returns its place."""
    rng, look = stage.rng, stage.look
    turn = rng.uniform(-0.7, 0.7)
    ahead = np.cos(turn) * AHEAD + np.sin(turn) * ACROSS
    across = -np.sin(turn) * AHEAD + np.cos(turn) * ACROSS
    place = stage.world(centre)
    axes = [stage.direction(axis) for axis in (ahead, across, UP)]
    face = stage.material(
        Material(
            "face",
            clothes.skin_tone,
            clothes.hair_tone * 0.5,
            gloss=0.1,
            face=Face(place, *axes, radius),
        )
    )
    frame = np.stack((ahead, across, UP), axis=1)
    stage.ellipsoid(
        centre, (0.9 * radius, 0.78 * radius, 1.15 * radius), face, turn=frame, part=HEAD
    )
    stage.ellipsoid(
        centre + radius * (0.88 * ahead - 0.1 * UP),
        (0.17 * radius, 0.13 * radius, 0.22 * radius),
        clothes.skin,
        turn=frame,
        part=HEAD,
    )
    for side in (-1, 1):
        ear = centre + radius * 0.78 * side * across
        stage.ellipsoid(
            ear, (0.16 * radius, 0.07 * radius, 0.24 * radius), clothes.skin, turn=frame, part=HEAD
        )
    style = rng.random()
    if style < 0.1:
        return place
    crown = centre - radius * (0.14 * ahead - 0.16 * UP)
    cover = clothes.hair
    if style > 0.9:
        cover = stage.material(solid(colour(look)))
        brim = centre + radius * (0.7 * ahead + 0.55 * UP)
        stage.ellipsoid(
            brim, (0.7 * radius, 0.6 * radius, 0.07 * radius), cover, turn=frame, part=HEAD
        )
    thick = rng.uniform(0.88, 1.02) * radius
    stage.ellipsoid(crown, (thick, 0.92 * thick, 1.12 * thick), cover, turn=frame, part=HEAD)
    if style < 0.45:
        long = rng.uniform(0.6, 2.2) * radius
        back = crown - 0.35 * radius * ahead
        stage.tube(back, back - long * UP, (0.75 * radius, 0.55 * radius), cover, part=HEAD)
    return place
