"""A scene while it is built: shapes, materials and objects, with a frame for each object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from degmix_training.data._labels import FIRST_INSTANCE
from degmix_training.data._layout import SEMSEG_CLASSES as FIRST_CLASSES
from degmix_training.data._varied.materials import Material, draw
from degmix_training.data._varied.shapes import (
    Box,
    Convex,
    Panel,
    Revolved,
    Ring,
    Shape,
    Tube,
    What,
)

SEMSEG_CLASSES = (
    *FIRST_CLASSES,
    "chair",
    "shelf",
    "window",
    "plant",
    "animal",
    "object",
    "building",
    "sky",
)
"""The plain scenes' classes come first, so that both can be scored on those."""
CLASS = {name: index for index, name in enumerate(SEMSEG_CLASSES)}
UP = np.array([0.0, 0.0, 1.0])
IDENTITY = np.eye(3)


def yaw(angle: float) -> np.ndarray:
    """The rotation `(3, 3)` by `angle` about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def towards(direction: np.ndarray) -> np.ndarray:
    """A rotation `(3, 3)` whose z axis points to `direction`."""
    z = direction / np.sqrt(direction @ direction)
    other = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    x = other - (other @ z) * z
    x /= np.sqrt(x @ x)
    y = np.array([z[1] * x[2] - z[2] * x[1], z[2] * x[0] - z[0] * x[2], z[0] * x[1] - z[1] * x[0]])
    return np.stack((x, y, z), axis=1)


class Stage:
    """What stands in a scene.

    Shapes are added in the frame of the current object, which `object` sets.

    Args:
        rng: Decides what stands where.
        look: Decides colours and textures alone, so that labels do not depend on what is installed.
    """

    def __init__(self, rng: np.random.Generator, look: np.random.Generator) -> None:
        self.rng, self.look = rng, look
        self.shapes: list[Shape] = []
        self.materials: list[Material] = []
        self.instances = FIRST_INSTANCE
        self.backdrops = 1
        self._semseg, self._instance = 0, 0
        self._place, self._turn = np.zeros(3), IDENTITY

    @contextmanager
    def object(
        self,
        semseg: str,
        place: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
        turn: np.ndarray = IDENTITY,
        *,
        is_backdrop: bool = False,
    ) -> Iterator[None]:
        """One object of a class: what is added inside shares its number and its frame.

        A backdrop (walls, ground, buildings) is never the salient object. Inside another object the
        frame is relative to that object's.
        """
        outer = (self._semseg, self._instance, self._place, self._turn)
        self._place = self._place + self._turn @ np.asarray(place, float)
        self._turn = self._turn @ turn
        self._semseg = CLASS[semseg]
        if is_backdrop:
            self._instance = -self.backdrops
            self.backdrops += 1
        else:
            self._instance = self.instances
            self.instances += 1
        try:
            yield
        finally:
            self._semseg, self._instance, self._place, self._turn = outer

    def material(self, material: Material | None = None, **options: object) -> int:
        """The number of a new material; one is drawn where none is given."""
        self.materials.append(material or draw(self.look, **options))  # type: ignore[arg-type]
        return len(self.materials) - 1

    def world(self, place: Sequence[float] | np.ndarray) -> np.ndarray:
        """A place in the current frame as a place in the world."""
        return self._place + self._turn @ np.asarray(place, float)

    def direction(self, axis: Sequence[float] | np.ndarray) -> np.ndarray:
        """A direction of the current frame in the world."""
        turned: np.ndarray = self._turn @ np.asarray(axis, float)
        return turned

    def _what(self, material: int, part: int) -> What:
        return What(self._semseg, part, self._instance, material)

    def box(
        self,
        centre: Sequence[float],
        half: Sequence[float],
        material: int,
        turn: np.ndarray = IDENTITY,
        *,
        part: int = 0,
    ) -> None:
        """A box; `half` are half its sides."""
        sides, axes = np.asarray(half, float), self._turn @ turn
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * sides
        at = self.world(centre)
        bounds = np.column_stack((at + corners @ axes.T, np.zeros(8)))
        self.shapes.append(Box(self._what(material, part), at, axes, bounds, sides))

    def panel(
        self,
        centre: Sequence[float],
        half: tuple[float, float],
        material: int,
        turn: np.ndarray = IDENTITY,
    ) -> None:
        """A rectangle in the plane of the first two axes of `turn`."""
        axes, at = self._turn @ turn, self.world(centre)
        corners = np.array([[x, y, 0] for x in (-1, 1) for y in (-1, 1)]) * (*half, 0)
        bounds = np.column_stack((at + corners @ axes.T, np.zeros(4)))
        self.shapes.append(Panel(self._what(material, 0), at, axes, bounds, half))

    def convex(
        self, points: np.ndarray, faces: np.ndarray, limits: np.ndarray, material: int
    ) -> None:
        """The solid where `faces @ point <= limits`; `points` `(K, 3)` are its corners."""
        at = self.world((0, 0, 0))
        bounds = np.column_stack((at + points @ self._turn.T, np.zeros(len(points))))
        what = self._what(material, 0)
        self.shapes.append(Convex(what, at, self._turn, bounds, faces, np.asarray(limits, float)))

    def revolved(
        self,
        centre: Sequence[float] | np.ndarray,
        profile: tuple[float, float, float],
        ends: tuple[float, float],
        material: int,
        *,
        turn: np.ndarray = IDENTITY,
        scale: tuple[float, float] = (1.0, 1.0),
        caps: tuple[bool, bool] = (True, True),
        part: int = 0,
    ) -> None:
        """A quadric about the z axis of `turn`; see `Revolved` for the profile."""
        axes, at = self._turn @ turn, self.world(centre)
        low, high = ends
        inner = [z for z in (low, high, (low + high) / 2)]
        wide = max(max(0.0, profile[0] + z * profile[1] + z * z * profile[2]) for z in inner)
        if profile[2] < 0:  # bulges: its widest place may lie between
            top = float(np.clip(-profile[1] / (2 * profile[2]), low, high))
            wide = max(wide, profile[0] + top * profile[1] + top * top * profile[2])
        reach = np.array([*np.multiply(scale, wide**0.5), 0.0])
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 1)]) * 1.0
        corners = corners * (*reach[:2], high - low) + (0, 0, low)
        bounds = np.column_stack((at + corners @ axes.T, np.zeros(8)))
        what = self._what(material, part)
        self.shapes.append(Revolved(what, at, axes, bounds, profile, scale, low, high, caps))

    def cylinder(
        self,
        centre: Sequence[float] | np.ndarray,
        radius: float,
        half: float,
        material: int,
        *,
        turn: np.ndarray = IDENTITY,
    ) -> None:
        """A closed cylinder; `half` is half its height."""
        self.revolved(centre, (radius**2, 0, 0), (-half, half), material, turn=turn)

    def cone(
        self,
        foot: Sequence[float] | np.ndarray,
        radii: tuple[float, float],
        height: float,
        material: int,
        *,
        turn: np.ndarray = IDENTITY,
        caps: tuple[bool, bool] = (True, True),
    ) -> None:
        """A cone from the first radius at `foot` to the second one at `height`, which may be 0."""
        low, slope = radii[0], (radii[1] - radii[0]) / height
        profile = (low * low, 2 * low * slope, slope * slope)
        self.revolved(foot, profile, (0.0, height), material, turn=turn, caps=caps)

    def ellipsoid(
        self,
        centre: Sequence[float] | np.ndarray,
        radii: tuple[float, float, float],
        material: int,
        *,
        turn: np.ndarray = IDENTITY,
        ends: tuple[float, float] = (-1.0, 1.0),
        part: int = 0,
    ) -> None:
        """An ellipsoid, or the part of one between `ends`, as shares of its third radius."""
        x, y, z = radii
        self.revolved(
            centre,
            (1.0, 0.0, -1 / z**2),
            (ends[0] * z, ends[1] * z),
            material,
            turn=turn,
            scale=(x, y),
            caps=(ends[0] > -1, ends[1] < 1),
            part=part,
        )

    def tube(
        self,
        start: Sequence[float] | np.ndarray,
        end: Sequence[float] | np.ndarray,
        radii: tuple[float, float],
        material: int,
        *,
        part: int = 0,
    ) -> None:
        """A limb between two places, with its radius at each."""
        first, second = self.world(start), self.world(end)
        axis = second - first
        length = float(np.sqrt(axis @ axis))
        # A ball that holds the other one has no cone that touches both.
        length = max(length, 1.02 * abs(radii[0] - radii[1]), 1e-3)
        second = first + axis / max(float(np.sqrt(axis @ axis)), 1e-9) * length
        bounds = np.array([[*first, radii[0]], [*second, radii[1]]])
        turn = towards(second - first)
        self.shapes.append(Tube(self._what(material, part), first, turn, bounds, length, radii))

    def ring(
        self,
        centre: Sequence[float],
        wide: float,
        thick: float,
        material: int,
        turn: np.ndarray = IDENTITY,
    ) -> None:
        """A torus about the z axis of `turn`."""
        at, axes = self.world(centre), self._turn @ turn
        bounds = np.array([[*at, wide + thick]])
        self.shapes.append(Ring(self._what(material, 0), at, axes, bounds, wide, thick))
