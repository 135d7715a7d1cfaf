"""Class ids of anyone's label files, as the classes of a task.

```yaml
semseg:
  7: road        # a class by its name or its index
  8: 1
  0: ignored     # these pixels are not scored, and nothing is learned from them
```

Every id that occurs must be listed, so that none is ignored by accident.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.config import parse_yaml, read_text
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.registry import unknown
from degmix_training.data._disk import IGNORE

FILE = "label_map.yaml"
IGNORED = "ignored"
MOST = 1 << 20
"""Ids are smaller than this, and larger than its negative."""
_SHOWN = 8


@dataclass(frozen=True)
class LabelMap:
    """The class of each id of one task.

    Attributes:
        task: The task.
        classes: Class indices by id; 255 is ignored.
        path: The file that says so.
    """

    task: str
    classes: Mapping[int, int]
    path: Path

    def apply(self, ids: np.ndarray, label: Path) -> np.ndarray:
        """Return the classes uint8 of ids of any integer type.

        Args:
            ids: What a label file holds.
            label: The path of that file, for messages.

        Raises:
            InputError: Ids that are not listed occur; says which, and how many pixels have them.
        """
        low, high = min(self.classes), max(self.classes)
        table = np.full(high - low + 1, -1, np.int16)
        table[[key - low for key in self.classes]] = list(self.classes.values())
        values = ids.astype(np.int64)
        found = table[np.clip(values, low, high) - low]
        strange = (values < low) | (values > high) | (found < 0)
        if strange.any():
            raise InputError(f"{label}: {self._unknown(values[strange])}")
        return found.astype(np.uint8)

    def _unknown(self, ids: np.ndarray) -> str:
        keys, counts = np.unique(ids, return_counts=True)
        pairs = list(zip(keys, counts, strict=True))
        words = [
            f"{key} ({count} {'pixel' if count == 1 else 'pixels'})"
            for key, count in pairs[:_SHOWN]
        ]
        more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        return (
            f"{self.task} has the ids {', '.join(words)}{more}, which {self.path} does not list; "
            f"add each with its class, or as `{keys[0]}: {IGNORED}`"
        )


def read_label_maps(
    path: Path, classes: Mapping[str, Sequence[str]], counts: Mapping[str, int]
) -> dict[str, LabelMap]:
    """Return the label maps by task that a file holds.

    Args:
        path: The file.
        classes: Class names by task that has labels; empty where classes have no names.
        counts: The number of classes of each task that may be mapped.

    Raises:
        ConfigError: The file cannot be read, or names a task, an id or a class that cannot be.
    """
    try:
        content = parse_yaml(read_text(path, "label map"))
        items = {task: dict(ids) for task, ids in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected a task, and below it lines `ID: CLASS` ({error})"
        ) from None
    maps = {}
    for task, ids in items.items():
        if task not in counts:
            raise ConfigError(f"{path}: " + unknown("task with classes", str(task), list(counts)))
        if not ids:
            raise ConfigError(f"{path}: task {task!r} lists no ids")
        names, count = classes[task], counts[task]
        found = {
            _id(key, path, task): _class(value, names, count, path) for key, value in ids.items()
        }
        maps[task] = LabelMap(task, found, path)
    return maps


def _id(key: Any, path: Path, task: str) -> int:
    if type(key) is not int or abs(key) >= MOST:
        raise ConfigError(f"{path}: {task} has the id {key!r}, expected an integer below {MOST}")
    return key


def _class(value: Any, names: Sequence[str], count: int, path: Path) -> int:
    """The index of a class that is given by its name or its index."""
    if value in (IGNORED, IGNORE):
        return IGNORE
    if type(value) is int and 0 <= value < count:
        return value
    if isinstance(value, str) and value in names:
        return list(names).index(value)
    if isinstance(value, str) and names:
        raise ConfigError(f"{path}: " + unknown("class", value, [*names, IGNORED]))
    raise ConfigError(
        f"{path}: got the class {value!r}, expected 0 to {count - 1}, a class name, or {IGNORED!r}"
    )
