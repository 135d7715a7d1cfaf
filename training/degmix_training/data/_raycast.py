"""Rays against primitives, all pixels of a primitive at once.

World axes: x and y along the floor, z up, metres. A ray is `origin + t * direction`; directions are
scaled so that `t` is depth along the optical axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTHING = np.inf
NEAR = 0.05
"""Metres: nothing nearer to the camera is drawn."""
Hit = tuple[np.ndarray, np.ndarray]
"""`t` `(P,)`, infinite where a ray misses, and outward unit normals `(P, 3)`."""


@dataclass(frozen=True)
class Primitive:
    """A shape with what it is.

    Attributes:
        semseg, part: Class indices.
        instance: Primitives of one object share it.
        material: Index into the scene's materials.
        centre, radius: Bounding sphere, metres.
    """

    semseg: int
    part: int
    instance: int
    material: int
    centre: np.ndarray
    radius: float

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> Hit:
        """Nearest hits of rays `(P, 3)` from `origin`."""
        raise NotImplementedError  # abstract


@dataclass(frozen=True)
class Box(Primitive):
    """A box turned by `yaw` about the vertical; `half` are half its sides."""

    half: np.ndarray
    yaw: float

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> Hit:
        """Intersect the rays with the three pairs of planes that bound the box."""
        turn = _about_z(-self.yaw)
        start, direction = turn @ (origin - self.centre), rays @ turn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / direction
            low, high = (-self.half - start) * inverse, (self.half - start) * inverse
        near, far = np.minimum(low, high), np.maximum(low, high)
        axis = np.argmax(near, axis=1)
        t = np.take_along_axis(near, axis[:, None], 1)[:, 0]
        inside = (t <= far.min(axis=1)) & (t > NEAR)
        normals = np.zeros_like(rays)
        sign = -np.sign(np.take_along_axis(direction, axis[:, None], 1))
        np.put_along_axis(normals, axis[:, None], sign, 1)
        return np.where(inside, t, NOTHING), normals @ turn


@dataclass(frozen=True)
class Ball(Primitive):
    """A sphere: its own bounding sphere."""

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> Hit:
        """Solve the quadratic equation of each ray and the sphere."""
        t = _sphere(origin - self.centre, rays, self.radius)
        return t, _normals(origin, rays, t, self.centre) / self.radius


@dataclass(frozen=True)
class Cylinder(Primitive):
    """An upright cylinder with caps."""

    width: float
    half_height: float

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> Hit:
        """Side, then the cap that faces the ray."""
        start = origin - self.centre
        a = np.sum(rays[:, :2] ** 2, axis=1)
        b = rays[:, :2] @ start[:2]
        side = _nearest_root(a, b, start[:2] @ start[:2] - self.width**2)
        z = start[2] + np.where(np.isfinite(side), side, 0) * rays[:, 2]
        side = np.where(np.abs(z) <= self.half_height, side, NOTHING)
        with np.errstate(divide="ignore", invalid="ignore"):
            cap = (-np.sign(rays[:, 2]) * self.half_height - start[2]) / rays[:, 2]
            across = start[:2] + cap[:, None] * rays[:, :2]
            on_cap = (cap > NEAR) & (np.sum(across**2, axis=1) <= self.width**2)
        cap = np.where(on_cap, cap, NOTHING)
        t = np.minimum(side, cap)
        normals = _normals(origin, rays, t, self.centre) / self.width
        normals[:, 2] = 0
        caps = cap < side
        normals[caps] = 0
        normals[caps, 2] = -np.sign(rays[caps, 2])
        return t, normals


@dataclass(frozen=True)
class Capsule(Primitive):
    """A segment from `start` to `end`, thickened by `width`."""

    start: np.ndarray
    end: np.ndarray
    width: float

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> Hit:
        """The slanted cylinder between the ends, then both balls."""
        axis = self.end - self.start
        length2 = axis @ axis
        offset = origin - self.start
        along_ray, along_start = rays @ axis, offset @ axis
        a = np.sum(rays**2, axis=1) - along_ray**2 / length2
        b = rays @ offset - along_ray * along_start / length2
        c = offset @ offset - along_start**2 / length2 - self.width**2
        tube = _nearest_root(a, b, c)
        place = (along_start + np.where(np.isfinite(tube), tube, 0) * along_ray) / length2
        tube = np.where((place >= 0) & (place <= 1), tube, NOTHING)
        balls = [_sphere(origin - end, rays, self.width) for end in (self.start, self.end)]
        t = np.minimum(tube, np.minimum(*balls))
        points = origin + np.where(np.isfinite(t), t, 0)[:, None] * rays
        share = np.clip((points - self.start) @ axis / length2, 0, 1)
        return t, (points - self.start - share[:, None] * axis) / self.width


def capsule(start: np.ndarray, end: np.ndarray, width: float, **what: int) -> Capsule:
    """A capsule with its bounding sphere."""
    radius = float(np.sqrt(np.sum((end - start) ** 2))) / 2 + width
    return Capsule(
        centre=(start + end) / 2, radius=radius, start=start, end=end, width=width, **what
    )


def room(origin: np.ndarray, rays: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, ...]:
    """From inside a box `[0, size]`: `t`, inward normals, and the face's axis and side."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(rays > 0, size - origin, -origin) / rays
    t = np.where(np.isfinite(t), t, NOTHING)
    axis = np.argmin(t, axis=1)
    rows = np.arange(len(rays))
    normals = np.zeros_like(rays)
    side = rays[rows, axis] > 0
    normals[rows, axis] = np.where(side, -1, 1)
    return t[rows, axis], normals, axis, side


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _sphere(offset: np.ndarray, rays: np.ndarray, radius: float) -> np.ndarray:
    a = np.sum(rays**2, axis=1)
    return _nearest_root(a, rays @ offset, offset @ offset - radius**2)


def _nearest_root(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """Smaller root of `a t^2 + 2 b t + c`, infinite where there is none in front."""
    square = b * b - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (-b - np.sqrt(np.maximum(square, 0))) / a
    return np.where((square > 0) & (t > NEAR), t, NOTHING)


def _normals(origin: np.ndarray, rays: np.ndarray, t: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return origin + np.where(np.isfinite(t), t, 0)[:, None] * rays - centre
