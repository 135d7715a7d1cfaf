"""Convert a map to a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_edge.tasks._base import BYTE_LABELS, MOST_LABELS, TaskSpec
from degmix_edge.tasks._palette import palette

STOPS = np.array(
    [(48, 18, 59), (70, 107, 227), (41, 187, 236), (49, 242, 153), (163, 253, 60), (237, 208, 58)]
    + [(251, 128, 34), (209, 49, 4), (122, 4, 2)],
    np.float32,
)
"""Colours from near to far, or from small to large: dark blue, cyan, green, yellow, red."""
Look = Literal["classes", "strongest", "grey", "ramp", "range", "normal", "flow", "components"]
"""What the colours of a map stand for."""


def look(spec: TaskSpec) -> Look:
    """Return what the colours of the task's maps stand for.

    Raises:
        ConfigError: The output is raw, and no map.
    """
    if spec.is_raw:
        raise ConfigError(
            f"task {spec.name!r}: is a raw tensor {spec.dtype} {spec.shape}, which has no picture; "
            "draw what its numbers mean"
        )
    if spec.has_labels:
        return "classes"
    if spec.decode in ("sigmoid", "foreground"):
        return "strongest" if spec.components else "grey"
    if spec.components:
        names: dict[int, Look] = {2: "flow", 3: "normal"}
        is_named = spec.components == (3 if spec.decode == "unit_vector" else 2)
        return names[spec.components] if is_named else "components"
    return "range" if spec.decode == "identity" else "ramp"


def farthest(values: np.ndarray, limit: float | None = None) -> float:
    """Return the value at the far end of the colours; larger values have the last colour.

    It is `limit` or, if that is None or 0, the 98th percentile of the map, so that a few far pixels
    do not use up the colours. Of vectors `(H, W, C)` their length counts. For a map of zeros it is
    1.
    """
    if limit:
        return limit
    lengths = np.linalg.norm(values, axis=-1) if values.ndim == 3 else values
    return float(np.percentile(lengths, 98)) or 1.0


def colour(array: np.ndarray, spec: TaskSpec, limit: float | None = None) -> np.ndarray:
    """Convert one map `(H, W)` or `(H, W, C)` to a picture, uint8 RGB `(H, W, 3)`.

    Args:
        array: The map as `TaskSpec.map_spec` describes it, without the batch dimension.
        spec: The map's task. Class maps use the colours of its palette. Pixels without a value
            are black: labels that are no class, such as 255, and NaN.
        limit: The value at the far end of the colours, as in `farthest`: metres of depth, pixels
            of flow. Use the same limit for pictures that are compared.

    Raises:
        ConfigError: The task's output is no map.
    """
    draw = _LOOKS[look(spec)]
    empty = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    empty = empty.any(-1) if array.ndim == 3 else empty
    if not empty.any():
        return np.asarray(draw(array, spec, limit), np.uint8)
    picture = np.zeros((*empty.shape, 3), np.uint8)
    if not empty.all():
        picture[~empty] = draw(array[~empty][:, None], spec, limit)[:, 0]
    return picture


def false_colour(values: np.ndarray) -> np.ndarray:
    """Draw numbers that are no picture, such as depth or temperatures, as uint8 RGB `(H, W, 3)`.

    Colours run from the smallest to the largest value, except for the outer 2 % of the pixels on
    either side. Of three channels or more, the first three become red, green and blue, each in its
    own range; of two, the first is drawn. Pixels without a finite value are black.

    Args:
        values: `(H, W)` or `(H, W, C)`.
    """
    planes = values.reshape(*values.shape[:2], -1).astype(np.float64)
    planes = planes[..., : 3 if planes.shape[2] > 2 else 1]
    known = np.isfinite(planes).all(-1)
    picture = np.zeros((*known.shape, 3), np.uint8)
    if known.any():
        low, high = np.percentile(planes[known], (2, 98), axis=0)
        shares = ((planes[known] - low) / np.where(high > low, high - low, 1)).clip(0, 1)
        drawn = 255 * shares if shares.shape[1] == 3 else _through_stops(shares[:, 0])
        picture[known] = np.rint(drawn)
    return picture


def _classes(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    # Of two bytes too, the last label is that of no class.
    size = BYTE_LABELS if spec.num_channels < BYTE_LABELS else MOST_LABELS + 1
    table = np.zeros((size, 3), np.uint8)
    table[: spec.num_channels] = _colours(spec)
    return np.asarray(table[array])


def _strongest(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    """The colour of the most probable class, darker the less probable it is."""
    return np.asarray(_colours(spec)[array.argmax(-1)] * array.max(-1, keepdims=True).clip(0, 1))


def _colours(spec: TaskSpec) -> np.ndarray:
    """The RGB colour of each class `(C, 3)`, also of classes without names."""
    return np.array(spec.palette or palette([str(i) for i in range(spec.num_channels)]), np.uint8)


def _grey(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    grey = np.clip(np.asarray(array, np.float32) * 255, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _ramp(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    return _through_stops(array / farthest(array, limit))


def _through_stops(shares: np.ndarray) -> np.ndarray:
    """The colour at each share of the way from the first to the last stop."""
    place = np.clip(shares, 0, 1) * (len(STOPS) - 1)
    low = np.minimum(place.astype(np.intp), len(STOPS) - 2)
    rest = (place - low)[..., None]
    return np.asarray(STOPS[low] * (1 - rest) + STOPS[low + 1] * rest)


def _range(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    """From minus the limit to the limit; zero is in the middle."""
    return _ramp(0.5 + array / (2 * farthest(np.abs(array), limit)), spec, 1.0)


def _normal(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    # The usual colours of normal maps: x right is red, y up is green, the camera is blue.
    towards = array * np.array([1, -1, -1], np.float32)
    return np.clip((towards + 1) * 127.5, 0, 255)


def _flow(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    """The direction is the hue, and the length is the saturation, up to the limit."""
    angle = np.arctan2(array[..., 1], array[..., 0]) / (2 * np.pi) % 1
    strength = np.clip(np.linalg.norm(array, axis=-1) / farthest(array, limit), 0, 1)
    shifts = np.array([0, 2 / 3, 1 / 3])  # of red, green and blue on the wheel
    hue = np.clip(np.abs((angle[..., None] + shifts) % 1 * 6 - 3) - 1, 0, 1)
    return np.asarray(255 * (1 - strength[..., None] * (1 - hue)))


def _components(array: np.ndarray, spec: TaskSpec, limit: float | None) -> np.ndarray:
    """The three directions in which the map's vectors differ most are red, green and blue."""
    vectors = array.reshape(-1, array.shape[-1]).astype(np.float64)
    vectors -= vectors.mean(0)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    axes = axes[:, ::-1][:, :3]
    axes *= np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])  # the same each time
    shown = np.zeros((len(vectors), 3))
    shown[:, : axes.shape[1]] = vectors @ axes
    low, high = np.percentile(shown, (2, 98), axis=0)
    shown = np.clip((shown - low) / np.where(high > low, high - low, 1), 0, 1) * 255
    return np.asarray(shown.reshape(*array.shape[:-1], 3))


_LOOKS: dict[Look, Callable[[np.ndarray, TaskSpec, float | None], np.ndarray]] = {
    "classes": _classes,
    "strongest": _strongest,
    "grey": _grey,
    "ramp": _ramp,
    "range": _range,
    "normal": _normal,
    "flow": _flow,
    "components": _components,
}
