"""One file a task. `find("semseg")` is the task; `_base.py` says what a task is."""

from __future__ import annotations

from typing import cast

from degmix_edge import registry
from degmix_edge.tasks._base import Task, TaskSpec, decode, logits_name
from degmix_edge.tasks._colour import colour, false_colour, farthest, look
from degmix_edge.tasks._decodes import DECODES
from degmix_edge.tasks._palette import palette

__all__ = [
    "DECODES",
    "Task",
    "TaskSpec",
    "colour",
    "decode",
    "false_colour",
    "farthest",
    "find",
    "logits_name",
    "look",
    "names",
    "palette",
]


def names() -> list[str]:
    """Names of all tasks."""
    return registry.names(__name__)


def find(name: str) -> Task:
    """The task called `name`.

    Raises:
        ConfigError: There is no such task; the message has the nearest name.
    """
    return cast(Task, registry.find(__name__, name).TASK)
