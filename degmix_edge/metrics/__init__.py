"""One file a metric. `find("miou")` is the class; `_base.py` says what a metric is.

Numpy only: a robot without torch scores with the same code as the training.
"""

from __future__ import annotations

from typing import cast

from degmix_edge import registry
from degmix_edge.metrics._base import Metric, ignored, relative_drop
from degmix_edge.metrics._tally import Tally, interval

__all__ = ["Metric", "Tally", "find", "ignored", "interval", "names", "relative_drop"]


def names() -> list[str]:
    """Names of all metrics."""
    return registry.names(__name__)


def find(name: str) -> type[Metric]:
    """The metric called `name`.

    Raises:
        ConfigError: There is no such metric; the message has the nearest name.
    """
    return cast(type[Metric], registry.find(__name__, name).Metric)
