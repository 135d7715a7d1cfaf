"""Shapes that rays meet: boxes and other convex solids, panels, revolved quadrics, tubes, rings.

World axes are x and y along the floor and z up, in metres. A ray is `origin + t * direction`.
Directions `(3, P)` are scaled so that `t` is depth along the optical axis. A shape gives depths
first; normals are only computed for the pixels that it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 0.05
"""Metres: nothing nearer to the camera is drawn."""
ON_FACE = 1e-6
"""Metres within which a point counts as on a cap."""
ROUNDS, CLOSE = 40, 2e-5
"""Steps along a ray towards a ring, and the distance in metres that counts as on it."""


@dataclass(frozen=True)
class What:
    """What a shape is: class of semseg, class of human_parts, object and material."""

    semseg: int
    part: int
    instance: int
    material: int


@dataclass(frozen=True)
class Shape:
    """A surface in a frame of its own.

    Attributes:
        what: Its classes, object and material.
        centre: Origin of its frame in the world, metres.
        turn: `(3, 3)`; the columns are the axes of its frame in the world.
        bounds: `(K, 4)` spheres, as centre and radius in the world, whose hull holds the shape; a
            radius may be infinite.
    """

    what: What
    centre: np.ndarray
    turn: np.ndarray
    bounds: np.ndarray

    def local(self, points: np.ndarray) -> np.ndarray:
        """Points `(3, P)` of the world in this frame."""
        moved: np.ndarray = self.turn.T @ (points - self.centre[:, None])
        return moved

    def depths(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Depth `(P,)` of the nearest hit of each ray `(3, P)`; infinite where it misses."""
        return self._depths(self.turn.T @ (origin - self.centre), self.turn.T @ rays)

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Unit normals `(3, P)` in the world, at points `(3, P)` of the surface; outward."""
        normals = self._normals(self.local(points))
        length = np.sqrt(np.sum(normals**2, axis=0))
        unit: np.ndarray = self.turn @ (normals / np.maximum(length, 1e-12))
        return unit

    def surface(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Coordinates `(2, P)` on the surface in metres, for patterns."""
        return unfold(self.local(points), self.turn.T @ normals)

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # abstract

    def _normals(self, points: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # abstract


@dataclass(frozen=True)
class Panel(Shape):
    """A rectangle at z = 0 of its frame, seen from both sides; `half` are half its sides."""

    half: tuple[float, float]

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -start[2] / rays[2]
            inside = (t > NEAR) & (np.abs(start[0] + t * rays[0]) <= self.half[0])
            inside &= np.abs(start[1] + t * rays[1]) <= self.half[1]
        return np.where(inside, t, np.inf)

    def _normals(self, points: np.ndarray) -> np.ndarray:
        normals = np.zeros_like(points)
        normals[2] = 1
        return normals


@dataclass(frozen=True)
class Box(Shape):
    """A box; `half` are half its sides."""

    half: np.ndarray

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / rays
            low = (-self.half - start)[:, None] * inverse
            high = (self.half - start)[:, None] * inverse
        near = np.minimum(low, high).max(axis=0)
        far = np.maximum(low, high).min(axis=0)
        return np.where((near <= far) & (near > NEAR), near, np.inf)

    def _normals(self, points: np.ndarray) -> np.ndarray:
        share = np.abs(points) - self.half[:, None]
        face = np.argmax(share, axis=0)[None]
        normals = np.zeros_like(points)
        sign = np.sign(np.take_along_axis(points, face, 0))
        np.put_along_axis(normals, face, sign, 0)
        return normals


@dataclass(frozen=True)
class Convex(Shape):
    """A convex solid: the points where `faces @ point <= limits`; faces are unit normals."""

    faces: np.ndarray
    limits: np.ndarray

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        along = self.faces @ rays  # (K, P)
        gap = (self.limits - self.faces @ start)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = gap / along
        near = np.where(along < 0, t, -np.inf).max(axis=0)
        far = np.where(along > 0, t, np.inf).min(axis=0)
        outside = ((along == 0) & (gap < 0)).any(axis=0)
        return np.where((near <= far) & (near > NEAR) & ~outside, near, np.inf)

    def _normals(self, points: np.ndarray) -> np.ndarray:
        face = np.argmax(self.faces @ points - self.limits[:, None], axis=0)
        normals: np.ndarray = self.faces[face].T.copy()
        return normals


@dataclass(frozen=True)
class Revolved(Shape):
    """A quadric about the z axis: `(x/sx)^2 + (y/sy)^2 = a + b z + c z^2`, from `low` to `high`.

    Cylinders, cones, ellipsoids, barrels and vases are such surfaces. Without a cap one sees into
    it.

    Attributes:
        profile: a, b and c.
        scale: sx and sy.
        low, high: Ends of the surface on the axis, metres.
        caps: Whether the lower and the upper end are closed.
    """

    profile: tuple[float, float, float]
    scale: tuple[float, float]
    low: float
    high: float
    caps: tuple[bool, bool]

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        sx, sy = self.scale
        start = start / (sx, sy, 1)
        t = first_root(self.profile, start, (rays[0] / sx, rays[1] / sy, rays[2]), self.ends)
        for end, closed in zip(self.ends, self.caps, strict=True):
            if closed:
                with np.errstate(divide="ignore", invalid="ignore"):
                    cap = (end - start[2]) / rays[2]
                    x, y = start[0] + cap * rays[0] / sx, start[1] + cap * rays[1] / sy
                    inside = (cap > NEAR) & (cap < t) & (x * x + y * y <= self._square(end))
                t = np.where(inside, cap, t)
        return t

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends on the axis."""
        return self.low, self.high

    def _square(self, z: float) -> float:
        a, b, c = self.profile
        return max(0.0, a + b * z + c * z * z)

    def _normals(self, points: np.ndarray) -> np.ndarray:
        _, b, c = self.profile
        x, y, z = points
        sx, sy = self.scale
        normals = np.stack((x / sx**2, y / sy**2, -(b / 2 + c * z)))
        radius = (x / sx) ** 2 + (y / sy) ** 2
        for end, closed, sign in zip(self.ends, self.caps, (-1, 1), strict=True):
            if closed:
                flat = (np.abs(z - end) < ON_FACE) & (radius < self._square(end) * (1 - 1e-6))
                normals[:, flat] = np.array([[0], [0], [sign]])
        return normals

    def surface(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Unrolled about the axis, as the arc at the widest place and the height; caps are flat."""
        x, y, z = self.local(points)
        widest = max(self._square(z) for z in (*self.ends, (self.low + self.high) / 2)) ** 0.5
        is_flat = np.abs(self.turn[:, 2] @ normals) > 0.9
        arc = np.arctan2(y, x) * widest * max(self.scale)
        return np.stack((np.where(is_flat, x, arc), np.where(is_flat, y, z)))


@dataclass(frozen=True)
class Tube(Shape):
    """Two balls, at the origin and at `length` on the z axis, and the cone that touches both.

    With one radius it is a capsule. A limb is such a shape.
    """

    length: float
    radii: tuple[float, float]

    def _tangent(self) -> tuple[float, float]:
        """Sine and cosine of the cone's angle with its axis."""
        sine = (self.radii[0] - self.radii[1]) / self.length
        return sine, float(np.sqrt(1 - sine * sine))

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        sine, cosine = self._tangent()
        (first, second), tan = self.radii, sine / cosine
        wide = first / cosine
        profile = (wide * wide, -2 * wide * tan, tan * tan)
        ends = (first * sine, self.length + second * sine)
        t = first_root(profile, start, (rays[0], rays[1], rays[2]), ends)
        for place, radius in ((0.0, first), (self.length, second)):
            t = np.minimum(t, _ball(start - (0, 0, place), rays, radius))
        return t

    def _normals(self, points: np.ndarray) -> np.ndarray:
        sine, cosine = self._tangent()
        z = np.clip(points[2] - np.hypot(points[0], points[1]) * sine / cosine, 0, self.length)
        normals = points.copy()
        normals[2] -= z
        return normals

    def surface(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Unrolled about the axis."""
        x, y, z = self.local(points)
        return np.stack((np.arctan2(y, x) * max(self.radii), z))


@dataclass(frozen=True)
class Ring(Shape):
    """A torus about the z axis: a circle of radius `wide`, thickened by `thick`."""

    wide: float
    thick: float

    def _depths(self, start: np.ndarray, rays: np.ndarray) -> np.ndarray:
        t = _ball(start, rays, self.wide + self.thick)
        t[~(t > NEAR)] = np.inf
        near = np.flatnonzero(np.isfinite(t))
        depth, some = t[near], rays[:, near]
        speed = np.sqrt(np.sum(some**2, axis=0))
        gap = np.zeros(len(near))
        for _ in range(ROUNDS):
            gap = self._gap(start[:, None] + depth * some)
            depth = depth + gap / speed
        t[near] = np.where(np.abs(gap) < CLOSE, depth, np.inf)
        return t

    def _gap(self, points: np.ndarray) -> np.ndarray:
        distance: np.ndarray = np.hypot(np.hypot(points[0], points[1]) - self.wide, points[2])
        return distance - self.thick

    def _normals(self, points: np.ndarray) -> np.ndarray:
        across = np.maximum(np.hypot(points[0], points[1]), 1e-9)
        normals = points.copy()
        normals[:2] -= points[:2] * (self.wide / across)
        return normals


def first_root(
    profile: tuple[float, float, float],
    start: np.ndarray,
    rays: tuple[np.ndarray, np.ndarray, np.ndarray],
    ends: tuple[float, float],
) -> np.ndarray:
    """Depth of the first hit of `x^2 + y^2 = a + b z + c z^2` between the heights `ends`.

    Rays begin at `start`; `rays` are the x, y and z of their directions, `(P,)` each.
    """
    a, b, c = profile
    x, y, z = start
    dx, dy, dz = rays
    square = dx * dx + dy * dy - c * dz * dz
    half = x * dx + y * dy - (c * z + b / 2) * dz
    rest = x * x + y * y - a - b * z - c * z * z
    root = half * half - square * rest
    with np.errstate(divide="ignore", invalid="ignore"):
        # The form without cancellation; it also holds where `square` is nearly zero.
        q = -(half + np.copysign(np.sqrt(np.maximum(root, 0)), half))
        one, two = q / square, rest / q
        best = np.full(len(dx), np.inf)
        for t in (one, two):
            height = z + t * dz
            valid = (root > 0) & (t > NEAR) & (height >= ends[0]) & (height <= ends[1])
            best = np.where(valid & (t < best), t, best)
    return best


def _ball(start: np.ndarray, rays: np.ndarray, radius: float) -> np.ndarray:
    square = np.sum(rays**2, axis=0)
    half = start @ rays
    root = half * half - square * (start @ start - radius**2)
    t = (-half - np.sqrt(np.maximum(root, 0))) / square
    return np.where((root > 0) & (t > NEAR), t, np.inf)


def unfold(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The two of three coordinates `(3, P)` along which the surface runs; z stays upright."""
    axis = np.argmax(np.abs(normals), axis=0)
    first = np.where(axis == 0, points[1], points[0])
    return np.stack((first, np.where(axis == 2, points[1], points[2])))
