"""Materials: how a surface looks, and the colours of its points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from degmix_training.data._varied.textures import bank

Kind = Literal["solid", "picture", "two", "checker", "stripes", "bricks", "face"]


@dataclass(frozen=True)
class Face:
    """Where a head's face is, so that eyes and a mouth can be painted.

    Attributes:
        centre: Centre of the head in metres.
        ahead, across, up: Unit vectors.
        radius: Radius of the head in metres.
    """

    centre: np.ndarray
    ahead: np.ndarray
    across: np.ndarray
    up: np.ndarray
    radius: float


@dataclass(frozen=True)
class Material:
    """A pattern.

    Attributes:
        kind: `picture` has a texture's own colours times `first`; `two` takes its brightness to mix
            both colours; the others are computed.
        first, second: Linear RGB in [0, 1].
        size: Width of the picture, or of a tile, in metres.
        gloss: Share of the highlight.
        texture: Index into the bank.
        angle: Turn of the pattern in radians.
        shift: Shift of the pattern in its own widths.
        glow: Light that the surface gives by itself, as a multiple of its colour.
        face: The face that is painted on it, if any.
    """

    kind: Kind
    first: np.ndarray
    second: np.ndarray
    size: float = 1.0
    gloss: float = 0.0
    texture: int = 0
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    glow: float = 0.0
    face: Face | None = None


def colour(
    rng: np.random.Generator,
    value: tuple[float, float] = (0.05, 0.9),
    vivid: float = 2.0,
) -> np.ndarray:
    """A random linear RGB colour; most are muted, and a smaller `vivid` makes more vivid ones."""
    hue, saturation = rng.random(), rng.beta(1.2, vivid)
    ramp = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    picked: np.ndarray = rng.uniform(*value) * (1 - saturation * (1 - ramp))
    return picked


def solid(first: np.ndarray, gloss: float = 0.0, glow: float = 0.0) -> Material:
    """One colour."""
    return Material("solid", first, first, gloss=gloss, glow=glow)


def draw(
    rng: np.random.Generator, *, large: bool = False, textures: tuple[str, ...] = ()
) -> Material:
    """A random material.

    Args:
        rng: Decides it.
        large: Calmer and paler, for walls and floors.
        textures: Only pictures whose name holds one of these words.
    """
    kinds: tuple[Kind, ...] = ("solid", "picture", "two", "checker", "stripes", "bricks")
    chances = (0.3, 0.22, 0.3, 0.05, 0.08, 0.05) if large else (0.34, 0.2, 0.3, 0.05, 0.07, 0.04)
    kind = kinds[int(rng.choice(len(kinds), p=chances))]
    if textures:
        kind = "picture" if rng.random() < 0.6 else "two"
    first = colour(rng, (0.3, 0.9), 4.0) if large else colour(rng)
    if large and rng.random() < 0.5:  # white, beige or grey, as most walls and floors are
        first = rng.uniform(0.35, 0.9) * np.array([1.0, 0.96, 0.9]) ** rng.uniform(-0.5, 2.5)
    contrast = rng.uniform(0.5, 0.97) if large else rng.uniform(0.2, 0.95)
    second = np.clip(first * contrast + rng.uniform(-0.1, 0.1), 0, 1)
    if rng.random() < 0.25 and not large:
        second = colour(rng)
    if kind == "picture":
        first = colour(rng, (0.6, 1.5), 6.0)
    size = rng.uniform(0.5, 3.0) if large else np.exp(rng.uniform(np.log(0.06), np.log(0.8)))
    if kind in ("checker", "stripes", "bricks"):
        size = rng.uniform(0.1, 0.5) if large else rng.uniform(0.02, 0.15)
    return Material(
        kind,
        first,
        second,
        size=float(size),
        gloss=float(rng.choice((0.0, 0.0, 0.1, 0.3, 0.7))),
        texture=_texture(rng, large, textures),
        angle=float(rng.choice((0, np.pi / 2)) if large else rng.uniform(0, 2 * np.pi)),
        shift=(float(rng.uniform(0, 9)), float(rng.uniform(0, 9))),
    )


def _texture(rng: np.random.Generator, large: bool, words: tuple[str, ...]) -> int:
    """Index of a texture whose name holds one of `words`, or that suits the size."""
    share = rng.random()
    usable = [
        index
        for index, texture in enumerate(bank())
        if (
            any(word in texture.name for word in words) if words else texture.is_ground or not large
        )
    ] or list(range(len(bank())))
    return usable[int(share * len(usable))]


def paint(
    material: Material, place: np.ndarray, points: np.ndarray, footprint: float
) -> np.ndarray:
    """Linear RGB `(P, 3)` of points of one surface.

    Args:
        material: Its material.
        place: Their coordinates on it, `(2, P)` metres.
        points: Their places in the world, `(3, P)` metres.
        footprint: Size of an image's pixel on it, metres.
    """
    if material.kind == "solid":
        return np.broadcast_to(material.first, (place.shape[1], 3))
    if material.kind == "face" and material.face is not None:
        return _face(material, material.face, points)
    c, s = np.cos(material.angle), np.sin(material.angle)
    x, y = place
    u = (c * x - s * y) / material.size + material.shift[0]
    v = (s * x + c * y) / material.size + material.shift[1]
    if material.kind in ("picture", "two"):
        texture = bank()[material.texture]
        colours = texture.colours(np.stack((u, v)), footprint / material.size)
        if material.kind == "picture":
            return colours * material.first
        share = colours @ np.array([0.3, 0.6, 0.1], np.float32)
    elif material.kind == "checker":
        share = (np.floor(u) + np.floor(v)) % 2
    elif material.kind == "stripes":
        share = (u % 1 < 0.4).astype(float)
    else:
        row = np.floor(2 * v)
        share = ((u + 0.5 * (row % 2)) % 1 < 0.05) | (2 * v % 1 < 0.1)
    mixed: np.ndarray = material.first + share[:, None] * (material.second - material.first)
    return mixed


def _face(material: Material, face: Face, points: np.ndarray) -> np.ndarray:
    """Skin with eyes, brows, a mouth and a shadow of a nose."""
    offset = (points - face.centre[:, None]) / face.radius
    x, y, z = face.across @ offset, face.up @ offset, face.ahead @ offset
    colours = np.repeat(material.first[None], points.shape[1], axis=0)
    front = z > 0.2
    side = np.abs(x)
    white = front & ((side - 0.36) ** 2 / 0.03 + (y - 0.12) ** 2 / 0.012 < 1)
    pupil = front & ((side - 0.36) ** 2 + (y - 0.12) ** 2 < 0.010)
    brow = front & (np.abs(side - 0.38) < 0.22) & (np.abs(y - 0.34) < 0.05)
    mouth = front & (x**2 / 0.08 + (y + 0.48) ** 2 / 0.006 < 1)
    nose = front & (side < 0.12) & (np.abs(y + 0.16) < 0.05)
    colours[white] = 0.8
    colours[brow | pupil] = material.second
    colours[mouth] = material.first * (0.75, 0.35, 0.35)
    colours[nose] *= 0.7
    return colours
