"""What stands in a room, and where: furniture, things and people, drawn from a random generator."""

from __future__ import annotations

import numpy as np

from degmix_training.data._raycast import Ball, Box, Cylinder, Primitive, capsule

SEMSEG_CLASSES = (
    "wall",
    "floor",
    "ceiling",
    "door",
    "picture",
    "table",
    "box",
    "ball",
    "cylinder",
    "person",
)
PART_CLASSES = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
TABLE, BOX, BALL, CYLINDER, PERSON = (
    SEMSEG_CLASSES.index(name) for name in ("table", "box", "ball", "cylinder", "person")
)
HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)
FIRST_INSTANCE = 20
"""Instances below are faces of the room, doors and pictures."""


class Layout:
    """Primitives of one scene, and the number of materials that they use.

    Args:
        rng: Decides everything.
        stand: Draws a free place on the floor, `(2,)` metres, for a thing of a given radius.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.primitives: list[Primitive] = []
        self.instances = FIRST_INSTANCE
        self.materials = 0

    def _what(self, semseg: int, *, part: int = 0, material: int | None = None) -> dict[str, int]:
        if material is None:
            material = self.material()
        return {"semseg": semseg, "part": part, "instance": self.instances, "material": material}

    def material(self) -> int:
        """Draw a new material at random."""
        self.materials += 1
        return self.materials - 1

    def table(self, x: float, y: float) -> float:
        """A table on the floor; returns the height of its top."""
        rng = self.rng
        half = np.array([rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.5), 0.02])
        top, yaw, wood = rng.uniform(0.45, 0.8), rng.uniform(0, np.pi), self.material()
        what = self._what(TABLE, material=wood)
        self._box(np.array([x, y, top - 0.02]), half, yaw, what)
        c, s = np.cos(yaw), np.sin(yaw)
        for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            lx, ly = dx * (half[0] - 0.05), dy * (half[1] - 0.05)
            leg = np.array([x + c * lx - s * ly, y + s * lx + c * ly, (top - 0.04) / 2])
            self._box(leg, np.array([0.03, 0.03, (top - 0.04) / 2]), yaw, what)
        self.instances += 1
        return float(top)

    def thing(self, x: float, y: float, ground: float, scale: float) -> None:
        """A box, ball or cylinder that stands on height `ground`."""
        rng = self.rng
        kind = int(rng.integers(3))
        size = scale * rng.uniform(0.6, 1.4)
        if kind == 0:
            half = size * rng.uniform(0.6, 1.3, 3)
            centre = np.array([x, y, ground + half[2]])
            self._box(centre, half, rng.uniform(0, np.pi), self._what(BOX))
        elif kind == 1:
            centre = np.array([x, y, ground + size])
            self.primitives.append(Ball(centre=centre, radius=size, **self._what(BALL)))
        else:
            half_height = size * rng.uniform(0.8, 2.2)
            centre = np.array([x, y, ground + half_height])
            radius = float(np.hypot(size, half_height))
            self.primitives.append(
                Cylinder(
                    centre=centre,
                    radius=radius,
                    width=size,
                    half_height=half_height,
                    **self._what(CYLINDER),
                )
            )
        self.instances += 1

    def person(self, x: float, y: float) -> None:
        """A person of capsules, standing, walking or with raised arms, in clothes of their own."""
        rng = self.rng
        tall = rng.uniform(1.1, 1.9)
        facing = rng.uniform(0, 2 * np.pi)
        across = np.array([-np.sin(facing), np.cos(facing), 0])
        ahead = np.array([np.cos(facing), np.sin(facing), 0])
        up = np.array([0.0, 0.0, 1.0])
        foot = np.array([x, y, 0.0])
        skin, shirt, trousers, hair = (self.material() for _ in range(4))
        sleeves = shirt if rng.random() < 0.5 else skin
        hips, shoulders = foot + 0.5 * tall * up, foot + 0.79 * tall * up
        limb = rng.uniform(0.026, 0.036) * tall

        def add(part: int, material: int, a: np.ndarray, b: np.ndarray, width: float) -> None:
            what = self._what(PERSON, part=part, material=material)
            self.primitives.append(capsule(a, b, width, **what))

        add(TORSO, shirt, hips + 0.04 * tall * up, shoulders - 0.03 * tall * up, 0.085 * tall)
        add(
            TORSO,
            shirt,
            shoulders - 0.07 * tall * across,
            shoulders + 0.07 * tall * across,
            0.045 * tall,
        )
        centre = foot + 0.92 * tall * up
        add(HEAD, skin, centre - 0.02 * tall * up, centre + 0.01 * tall * up, 0.06 * tall)
        back = centre + 0.03 * tall * up - 0.012 * tall * ahead
        add(HEAD, hair, back, back + 0.004 * tall * up, 0.058 * tall)
        stride = rng.uniform(-0.5, 0.5)
        for side in (-1, 1):
            hip = hips + side * 0.05 * tall * across
            swing = side * stride
            knee = hip + 0.25 * tall * (np.sin(swing) * ahead - np.cos(swing) * up)
            lean = swing - rng.uniform(0, 0.4)
            ankle = knee + 0.25 * tall * (np.sin(lean) * ahead - np.cos(lean) * up)
            ankle[2] = max(ankle[2], limb)
            add(UPPER_LEG, trousers, hip, knee, 1.5 * limb)
            add(LOWER_LEG, trousers, knee, ankle, 1.15 * limb)
            raised = rng.uniform(0.1, 0.6) if rng.random() < 0.7 else rng.uniform(1.2, 2.6)
            shoulder = shoulders + side * 0.115 * tall * across
            out = np.sin(raised) * side * across * 0.8 + np.sin(raised) * ahead * rng.uniform(
                -0.6, 0.6
            )
            elbow = shoulder + 0.17 * tall * (out - np.cos(raised) * up)
            bend = raised + rng.uniform(0, 0.9)
            out = np.sin(bend) * side * across * 0.5 + np.sin(bend) * ahead * 0.7
            wrist = elbow + 0.17 * tall * (out - np.cos(bend) * up)
            add(UPPER_ARM, sleeves, shoulder, elbow, limb)
            add(LOWER_ARM, skin, elbow, wrist, 0.85 * limb)
        self.instances += 1

    def _box(self, centre: np.ndarray, half: np.ndarray, yaw: float, what: dict[str, int]) -> None:
        radius = float(np.sqrt(np.sum(half**2)))
        self.primitives.append(Box(centre=centre, radius=radius, half=half, yaw=yaw, **what))
