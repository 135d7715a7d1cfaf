"""A model by names on the command line: its size, and its tasks with a data set's classes."""

from __future__ import annotations

from typing import Any


def size(text: str) -> tuple[int, int]:
    """`448x672` as height and width.

    Raises:
        ConfigError: It is no such text.
    """
    from degmix_edge.errors import ConfigError

    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ConfigError(f"--size {text}: expected HEIGHTxWIDTH in pixels, as in 425x560")
    return int(height), int(width)


def specs(names: tuple[str, ...], data: str | None) -> tuple[str, dict[str, Any]]:
    """The tasks with the classes of `data`, or of the first data set that has them all."""
    from degmix_training import data as data_sets

    from degmix_edge import tasks
    from degmix_edge.errors import ConfigError
    from degmix_edge.registry import unknown

    known = {
        name: data_sets.find(name).DataSet.classes
        for name in ("nyud", "pascal_context", "cityscapes", "synthetic")
    }
    if data is not None and data not in known:
        raise ConfigError(unknown("data set", data, known))
    fitting = [
        d for d, classes in known.items() if data in (None, d) and set(names) <= set(classes)
    ]
    if not fitting:
        have = "; ".join(f"{name}: {', '.join(classes)}" for name, classes in known.items())
        raise ConfigError(f"no data set has labels for {', '.join(names)} together. {have}")
    classes = known[fitting[0]]
    return fitting[0], {name: tasks.find(name).spec(classes[name]) for name in names or classes}
