"""One file per observer; its `amax(histogram)` returns the magnitude that maps to 127."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from degmix_calibration.histogram import Histogram
from degmix_edge import registry


def names() -> list[str]:
    """Return the names of all observers."""
    return registry.names(__name__)


def find(name: str) -> Callable[[Histogram], float]:
    """Return the observer called `name`.

    Raises:
        ConfigError: There is no such observer; the message suggests the nearest name.
    """
    return cast(Callable[[Histogram], float], registry.find(__name__, name).amax)
