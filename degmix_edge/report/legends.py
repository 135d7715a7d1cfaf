"""Legends of a page: what the colours of a map mean, as values that a template draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from degmix_edge.tasks import TaskSpec, colour, look

RGB = tuple[int, int, int]
STOPS = 17
"""Colours of a bar, between which a browser interpolates."""
DISC = 96
"""Pixels of the side of a disc."""
CHIPS = 24
"""Most classes in a legend; the largest areas come first."""


@dataclass(frozen=True)
class Chip:
    """One colour with its meaning, and a remark such as the share of the pixels."""

    colour: RGB
    name: str
    remark: str = ""


@dataclass(frozen=True)
class Legend:
    """What the colours of a picture mean: chips, a bar, or a disc.

    Attributes:
        title: The quantity with its unit.
        chips: A colour for each class.
        stops: The colours of a bar from its smallest to its largest value.
        ticks: Texts at equal distances along the bar.
        disc: A picture `(DISC, DISC, 3)` uint8 of all directions; outside the circle it is 0.
        around: Texts at the top, right, bottom and centre of the disc.
        note: A sentence.
    """

    title: str
    chips: tuple[Chip, ...] = ()
    stops: tuple[RGB, ...] = ()
    ticks: tuple[str, ...] = ()
    disc: np.ndarray | None = None
    around: tuple[str, str, str, str] = ("", "", "", "")
    note: str = ""


def legend(spec: TaskSpec, maps: Sequence[np.ndarray], limit: float) -> Legend:
    """Return the legend of a task's maps, whose colours end at `limit`.

    Args:
        spec: The task.
        maps: The maps that are shown; of classes only those that occur are in the legend.
        limit: The value at the far end of the colours, as in `colour`.
    """
    kind, title = look(spec), _title(spec)
    if kind in ("classes", "strongest"):
        return Legend(title, chips=_chips(spec, maps))
    if kind == "normal":
        return Legend(title, disc=_sphere(spec), around=("up", "right", "down", "towards us"))
    if kind == "flow":
        around = ("up", "right", "down", "still")
        return Legend(title, disc=_wheel(spec), around=around, note=f"full colour: {limit:.3g} px")
    if kind == "components":
        note = "Red, green and blue are the three directions in which the vectors differ most."
        return Legend(title, note=note)
    low, high = (-limit, limit) if kind == "range" else (0.0, 1.0 if kind == "grey" else limit)
    values = np.linspace(low, high, STOPS, dtype=np.float32)
    return bar(title, colour(values[None], spec, limit)[0], low, high)


def bar(title: str, colours: np.ndarray, low: float, high: float, *, open_end: str = "") -> Legend:
    """Return a bar of colours `(N, 3)` from `low` to `high`, with three ticks."""
    stops = tuple((int(r), int(g), int(b)) for r, g, b in colours)
    middle = (low + high) / 2
    return Legend(
        title, stops=stops, ticks=(f"{low:.3g}", f"{middle:.3g}", f"{high:.3g}{open_end}")
    )


def _title(spec: TaskSpec) -> str:
    if look(spec) in ("classes", "strongest"):
        return "Classes"
    return f"{spec.name} [{spec.unit.partition(',')[0]}]" if spec.unit else spec.name


def _chips(spec: TaskSpec, maps: Sequence[np.ndarray]) -> tuple[Chip, ...]:
    """Classes by their share of the first map, and those that occur in another map only."""
    names = spec.classes or tuple(f"class {index}" for index in range(spec.num_channels))
    counts = np.array([_counts(spec, array) for array in maps])
    order = sorted(range(len(names)), key=lambda i: (-counts[0][i], -counts[:, i].max()))
    present = [i for i in order if counts[:, i].any()]
    certain = np.eye(len(names), dtype=np.float32) if spec.components else np.arange(len(names))
    colours = colour(certain[:, None], spec)[:, 0]
    chips = []
    for index in present[:CHIPS]:
        share = 100 * counts[0][index] / max(counts[0].sum(), 1)
        red, green, blue = (int(v) for v in colours[index])
        chips.append(Chip((red, green, blue), names[index], _percent(share)))
    if len(present) > CHIPS:
        chips.append(Chip((0, 0, 0), f"and {len(present) - CHIPS} smaller ones"))
    return tuple(chips)


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.1 else f"{share:.1f} %" if share < 10 else f"{share:.0f} %"


def _counts(spec: TaskSpec, array: np.ndarray) -> np.ndarray:
    labels = array.argmax(-1) if spec.components else array
    return np.bincount(labels.ravel(), minlength=spec.num_channels)[: spec.num_channels]


def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x to the right and y down in [-1, 1], and where the circle is."""
    axis = (np.arange(DISC, dtype=np.float32) + 0.5) / DISC * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return x, y, x**2 + y**2 <= 1


def _sphere(spec: TaskSpec) -> np.ndarray:
    """The visible half of a sphere, whose normals point towards the camera."""
    x, y, inside = _grid()
    z = -np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    picture = colour(np.stack([x, y, z], -1).astype(np.float32), spec)
    return np.asarray(picture * inside[..., None], np.uint8)


def _wheel(spec: TaskSpec) -> np.ndarray:
    """All directions of a flow, longer towards the rim."""
    x, y, inside = _grid()
    picture = colour(np.stack([x, y], -1).astype(np.float32), spec, 1.0)
    return np.asarray(picture * inside[..., None], np.uint8)
