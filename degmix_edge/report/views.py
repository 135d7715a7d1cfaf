"""One image of a page with its tasks: pictures of the maps, and what differs between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from degmix_edge.report.legends import Chip, Legend, bar, legend
from degmix_edge.tasks import TaskSpec, colour, farthest, look

NO_LABEL = 255
FAR_SHARE, FAR_ANGLE_DEG, FAR_PROBABILITY = 0.05, 10.0, 0.1
"""Differences that have the full colour: as a share of the colours' far end, of directions, and of
probabilities."""
TO_LABELS = 5.0
"""Differences to labels are about so many times as large as those between two engines."""
CHANGED = (255, 160, 40)
"""Colour of a pixel whose class differs."""
BELOW, EQUAL, ABOVE = (70, 160, 255), (16, 18, 24), (255, 160, 40)
"""Colours of a signed difference: smaller than the reference, equal, larger."""


@dataclass(frozen=True)
class Difference:
    """What differs between two maps of a task.

    Attributes:
        picture: `(H, W, 3)` uint8; dark is equal, bright differs.
        legend: What its colours mean.
        text: How much differs, in words.
        share: Mean difference in [0, 1], where 1 has the full colour everywhere.
    """

    picture: np.ndarray
    legend: Legend
    text: str
    share: float


@dataclass(frozen=True)
class View:
    """The maps of one task on one image.

    Attributes:
        task: The task.
        layers: Pictures `(H, W, 3)` uint8 of one size by name, the reference first.
        legend: What their colours mean.
        difference: Second layer against the first; None where there is one layer only.
    """

    task: TaskSpec
    layers: Mapping[str, np.ndarray]
    legend: Legend
    difference: Difference | None = None


@dataclass(frozen=True)
class Panel:
    """One image `(H, W, 3)` uint8 and the views of its tasks."""

    name: str
    note: str
    image: np.ndarray
    views: tuple[View, ...]

    @property
    def share(self) -> float:
        """The largest difference of a task, which orders panels."""
        return max((v.difference.share for v in self.views if v.difference), default=0.0)


def view(
    spec: TaskSpec,
    maps: Mapping[str, np.ndarray],
    limit: float | None = None,
    *,
    scale: float = 1.0,
) -> View:
    """Draw maps of a task in the same colours, and the second one's difference to the first.

    Args:
        spec: The task, whose output is a map.
        maps: Maps `(H, W)` or `(H, W, C)` of one size by name, the reference first. Pixels without
            a value are NaN, or a label that is no class.
        limit: The value at the far end of the colours; None takes a round number near the
            reference's 98th percentile.
        scale: Differences that are so many times as large have the full colour.
    """
    arrays = {name: np.asarray(array) for name, array in maps.items()}
    first = next(iter(arrays.values()))
    far = _far(spec, first, limit)
    others = list(arrays.values())
    return View(
        spec,
        {name: colour(array, spec, far) for name, array in arrays.items()},
        legend(spec, others, far),
        difference(others[1], first, spec, far, scale=scale) if len(others) > 1 else None,
    )


def label_map(label: np.ndarray, spec: TaskSpec, shape: tuple[int, ...]) -> np.ndarray:
    """Return a label as a map: of the map's size and type, without the pixels that do not count.

    Args:
        label: What the picture area shows, at any size.
        spec: The task.
        shape: Height and width of the map, which each take the nearest pixel of the label.
    """
    rows, columns = (
        ((np.arange(n) + 0.5) * size / n).astype(np.intp)
        for n, size in zip(shape, label.shape, strict=False)
    )
    nearest = label[rows[:, None], columns]
    if spec.has_labels:
        return np.asarray(nearest, spec.map_spec(1, 1).dtype)
    values: np.ndarray = nearest.astype(np.float32)
    if label.dtype == np.uint8:
        values[nearest == NO_LABEL] = np.nan
    elif spec.decode == "unit_vector":
        values[~nearest.any(-1)] = np.nan
    elif spec.decode == "clamp":
        values[nearest <= 0] = np.nan
    return values


def difference(
    got: np.ndarray, want: np.ndarray, spec: TaskSpec, limit: float, *, scale: float = 1.0
) -> Difference:
    """Return what differs between `got` and the reference `want`, maps of one size.

    Args:
        got: The map that is judged.
        want: The reference; pixels without a value do not count.
        spec: The task.
        limit: The far end of the maps' colours, which scales the differences'.
        scale: Differences that are so many times as large have the full colour.
    """
    kind = look(spec)
    if kind == "classes":
        return _changed(got, want, spec)
    first, second = got.astype(np.float32), want.astype(np.float32)
    if spec.decode == "unit_vector":
        return _angle(first, second, scale)
    full = limit * FAR_SHARE * scale
    if kind in ("grey", "strongest"):
        full = FAR_PROBABILITY * scale
    unit = spec.unit.partition(",")[0]
    if spec.components:
        lengths = np.linalg.norm(first - second, axis=-1)
        return _amount(lengths, full, f"length of the difference [{unit}]", unit)
    return _signed(first - second, full, unit)


def _far(spec: TaskSpec, first: np.ndarray, limit: float | None) -> float:
    """The far end of the colours: as given, or a round number."""
    kind = look(spec)
    if kind not in ("ramp", "range", "flow"):
        return 1.0
    if limit:
        return limit
    values = np.abs(first) if kind == "range" else first
    known = values[np.isfinite(values).all(-1) if values.ndim == 3 else np.isfinite(values)]
    return _round_up(farthest(known[:, None] if values.ndim == 3 else known)) if len(known) else 1.0


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return float(next(s for s in steps if s * power >= value * (1 - 1e-9)) * power)


def _changed(got: np.ndarray, want: np.ndarray, spec: TaskSpec) -> Difference:
    valid = want < spec.num_channels
    differs = (got != want) & valid
    picture = np.where(valid[..., None], colour(want, spec) * 0.25, 0)
    picture[differs] = CHANGED
    share = float(differs.sum() / max(valid.sum(), 1))
    chips = (Chip(CHANGED, "another class"), Chip(EQUAL, "the same class, dimmed"))
    text = f"{100 * share:.2f} % of the pixels have another class"
    return Difference(picture.astype(np.uint8), Legend("Difference", chips), text, share)


def _angle(got: np.ndarray, want: np.ndarray, scale: float) -> Difference:
    lengths = np.linalg.norm(got, axis=-1) * np.linalg.norm(want, axis=-1)
    cosines = (got * want).sum(-1) / np.where(lengths > 0, lengths, np.nan)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return _amount(angles, FAR_ANGLE_DEG * scale, "angle between both [degrees]", "degrees")


def _amount(values: np.ndarray, full: float, title: str, unit: str) -> Difference:
    """A difference without a sign: black is none, then orange, then white."""
    return Difference(
        _bright(values / full),
        bar(title, _bright(np.linspace(0, 1, 17)), 0, full, open_end=" or more"),
        _mean(values, unit),
        _share(values, full),
    )


def _signed(values: np.ndarray, full: float, unit: str) -> Difference:
    """A difference with a sign: blue is smaller than the reference, orange is larger."""
    title = f"smaller or larger [{unit}]" if unit else "smaller or larger"
    return Difference(
        _two_sided(values / full),
        bar(title, _two_sided(np.linspace(-1, 1, 17)), -full, full),
        _mean(np.abs(values), unit),
        _share(values, full),
    )


def _bright(shares: np.ndarray) -> np.ndarray:
    stops = np.array([EQUAL, (150, 70, 20), ABOVE, (255, 240, 200)], np.float32)
    return _between(shares, np.linspace(0, 1, len(stops)), stops)


def _two_sided(shares: np.ndarray) -> np.ndarray:
    return _between(shares, np.array([-1.0, 0, 1]), np.array([BELOW, EQUAL, ABOVE], np.float32))


def _between(shares: np.ndarray, places: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Interpolate colours; a share that is NaN is black."""
    planes = [np.interp(np.nan_to_num(shares), places, stops[:, c]) for c in range(3)]
    picture = np.stack(planes, -1) * np.isfinite(shares)[..., None]
    return np.asarray(np.rint(picture), np.uint8)


def _mean(values: np.ndarray, unit: str) -> str:
    known = values[np.isfinite(values)]
    if not known.size:
        return "no pixel can be compared"
    largest = float(known.max())
    return f"mean {float(known.mean()):.3g}, largest {largest:.3g} {unit}".rstrip()


def _share(values: np.ndarray, full: float) -> float:
    known = np.abs(values[np.isfinite(values)]) / full
    return float(np.clip(known, 0, 1).mean()) if known.size else 0.0
