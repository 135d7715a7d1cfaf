"""Charts of a page as values with their geometry, which the templates draw.

Bars are HTML, so their texts stay readable on a phone. Everything with two axes is an SVG of a few
kilobytes that takes its colours from the page, light or dark. A plotting library's SVG has fixed
colours and sizes, and its scripts are larger than a page with its pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 14, 42
"""Pixels of an SVG around its plot."""


@dataclass(frozen=True)
class Bar:
    """One bar: values by part, which are stacked, and the text at its end.

    Attributes:
        label: The text before it.
        parts: Names and values; each name has its own chart colour.
        text: The text behind it.
        tone: The chart colour of a bar with one part.
        error: Half the length of the error bar at its end, in the unit of the parts; 0 draws none.
    """

    label: str
    parts: tuple[tuple[str, float], ...]
    text: str
    tone: int = 0
    error: float = 0.0

    @property
    def total(self) -> float:
        """The length of the whole bar."""
        return sum(value for _, value in self.parts)


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from 0, with an axis and marked values.

    Attributes:
        title: What the bars show, with the unit.
        bars: From top to bottom.
        marks: Values that a line marks, each with its meaning.
        note: A sentence below.
    """

    title: str
    bars: tuple[Bar, ...]
    marks: tuple[tuple[float, str], ...] = ()
    note: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the parts, without repetition."""
        return list(dict.fromkeys(name for bar in self.bars for name, _ in bar.parts))

    @cached_property
    def ticks(self) -> list[tuple[float, str]]:
        """Place in percent and text of each tick; the last one is at the end of the axis."""
        finite = [b.total + b.error for b in self.bars if math.isfinite(b.total)]
        most = max([*finite, *(value for value, _ in self.marks)], default=0.0) or 1.0
        values = nice_ticks(0, most)
        step = values[1] - values[0]
        end = values[-1] if values[-1] >= most else values[-1] + step
        values = values if end == values[-1] else [*values, end]
        return [(100 * v / end, f"{v:g}") for v in values]

    def percent(self, value: float) -> float:
        """Return the share of the axis that `value` takes, in percent."""
        end = float(self.ticks[-1][1])
        return round(min(100 * value / end, 100.0), 3) if math.isfinite(value) else 100.0


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: The quantity with its unit.
        log: Factors of ten are at equal distances.
        ticks: Values with their texts; empty takes round numbers.
    """

    label: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Point:
    """A point of a series.

    Attributes:
        x, y: Its place.
        label: What is shown on hovering.
        badge: The text inside its mark.
        error: Half the height of its error bar, in the unit of y; 0 draws none.
    """

    x: float
    y: float
    label: str = ""
    badge: str = ""
    error: float = 0.0


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: What the key calls it; empty leaves it out.
        points: The points; a band has its upper edge and then the lower one backwards.
        kind: How they are drawn.
        tone: Which of the page's chart colours, from 0.
    """

    name: str
    points: tuple[Point, ...]
    kind: Literal["points", "line", "band", "area"] = "points"
    tone: int = 0


@dataclass(frozen=True)
class Plot:
    """A chart with two axes.

    Attributes:
        title: What it shows.
        x, y: The axes.
        series: What is drawn, the first at the bottom.
        marks: Values of y that a line marks, each with its meaning.
        x_marks: Values of x that a line marks.
        note: A sentence below.
        floor: Smaller values of a log axis are drawn at this value.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[tuple[float, str], ...] = ()
    x_marks: tuple[tuple[float, str], ...] = ()
    note: str = ""
    floor: float = 1e-3

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM

    @cached_property
    def drawn(self) -> list[Series]:
        """The series with their points in pixels; values that are not finite are left out."""
        return [
            Series(
                s.name, tuple(self._placed(p) for p in s.points if _is_finite(p)), s.kind, s.tone
            )
            for s in self.series
        ]

    @cached_property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Place in pixels and text of each tick of x."""
        ticks = self._ticks(self.x, self._x_range, 5)
        return [(self._x(v), text) for v, text in ticks]

    @cached_property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Place in pixels and text of each tick of y."""
        ticks = self._ticks(self.y, self._y_range, 5)
        return [(self._y(v), text) for v, text in ticks]

    @property
    def drawn_marks(self) -> list[tuple[float, str]]:
        """Place in pixels and meaning of each marked value of y."""
        return [(self._y(value), text) for value, text in self.marks]

    @property
    def drawn_x_marks(self) -> list[tuple[float, str]]:
        """Place in pixels and meaning of each marked value of x."""
        return [(self._x(value), text) for value, text in self.x_marks]

    @staticmethod
    def path(points: Sequence[Point], *, closed: bool = False, base: float | None = None) -> str:
        """Return the path of an SVG through points in pixels; `base` closes it along that y."""
        if not points:
            return ""
        text = "M" + "L".join(f"{p.x:.1f} {p.y:.1f}" for p in points)
        if base is not None:
            text += f"V{base:.1f}H{points[0].x:.1f}"
        return text + ("Z" if closed or base is not None else "")

    @cached_property
    def _x_range(self) -> tuple[float, float]:
        values = [p.x for s in self.series for p in s.points if _is_finite(p)]
        return self._range(self.x, [*values, *(v for v, _ in self.x_marks)])

    @cached_property
    def _y_range(self) -> tuple[float, float]:
        points = [p for s in self.series for p in s.points if _is_finite(p)]
        values = [y for p in points for y in (p.y - p.error, p.y + p.error)]
        return self._range(self.y, [*values, *(v for v, _ in self.marks)])

    def _range(self, axis: Axis, values: Sequence[float]) -> tuple[float, float]:
        if axis.log:
            logs = [math.log10(max(v, self.floor)) for v in values] or [0.0]
            start = math.floor(min(logs) + 1e-9)
            return float(start), float(max(math.ceil(max(logs) - 1e-9), start + 1))
        low, high = min(values, default=0.0), max(values, default=1.0)
        if low == high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        # A range that nearly reaches 0 begins there.
        begin = 0.0 if 0 <= low < 0.4 * high else low - 0.06 * (high - low)
        return begin, high + 0.06 * (high - begin)

    def _ticks(self, axis: Axis, ends: tuple[float, float], count: int) -> list[tuple[float, str]]:
        if axis.ticks:
            return list(axis.ticks)
        if not axis.log:
            return [(v, f"{v:g}") for v in nice_ticks(*ends, count) if ends[0] <= v <= ends[1]]
        low, high = round(ends[0]), round(ends[1])
        step = max(1, math.ceil((high - low) / count))
        return [(10.0**e, f"{10.0**e:g}") for e in range(low, high + 1, step)]

    def _placed(self, point: Point) -> Point:
        y = self._y(point.y)
        error = abs(self._y(point.y - point.error) - y) if point.error else 0.0
        return Point(self._x(point.x), y, point.label, point.badge, error)

    def _x(self, value: float) -> float:
        return self.left + (self.right - self.left) * self._share(self.x, self._x_range, value)

    def _y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * self._share(self.y, self._y_range, value)

    def _share(self, axis: Axis, ends: tuple[float, float], value: float) -> float:
        at = math.log10(max(value, self.floor)) if axis.log else value
        return (at - ends[0]) / (ends[1] - ends[0])


@dataclass(frozen=True)
class Group:
    """Charts that belong together, side by side where there is room.

    Attributes:
        title: Its heading.
        note: What to look at.
        charts: The charts.
        key: The meaning of the badges inside the points, in their order.
    """

    title: str
    note: str
    charts: tuple[Bars | Plot, ...]
    key: tuple[str, ...] = ()


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten, about `count`, in `[low, high]`."""
    span = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = power * next((s for s in (1, 2, 2.5, 5) if s * power >= span * (1 - 1e-9)), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _is_finite(point: Point) -> bool:
    return math.isfinite(point.x) and math.isfinite(point.y)
