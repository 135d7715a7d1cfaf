"""Anyone's own labels: a folder a split, in it a folder of images and one a task.

```
ROOT/classes.yaml                 semseg: [road, car, ...]     (tasks with classes)
ROOT/train/images/NAME.png        or .jpg
ROOT/train/semseg/NAME.png        class indices, 255 ignored; human_parts the same
ROOT/train/saliency/NAME.png      0 and 255, or 0 and 1 (then 255 is ignored); edge, mask the same
ROOT/train/depth/NAME.npy         metres; or NAME.png, 16 bits, millimetres; 0 is invalid
ROOT/train/normals/NAME.npy       (H, W, 3), x right, y down, z forward; or NAME.png, 2 v / 255 - 1
ROOT/val/...                      the same
```
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from degmix_edge import tasks
from degmix_edge.config import parse_yaml, read_text
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.registry import unknown
from degmix_training.data import _disk
from degmix_training.data._base import SPLITS
from degmix_training.data._disk import DiskDataSet, LabelFile

IMAGES = (".png", ".jpg", ".jpeg")
LABELS = (".png", ".npy")


def _depth(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return _disk.depth_array(path)
    return _disk.png(path).astype(np.float32) / 1000


def _normals(path: Path) -> np.ndarray:
    return _disk.normals_array(path) if path.suffix == ".npy" else _disk.normals_png(path)


def _binary(path: Path) -> np.ndarray:
    return _disk.edge_array(path) if path.suffix == ".npy" else _disk.binary(path)


def _classes(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return _disk.classes(path)
    values = _disk.array(path)
    if values.dtype.kind not in "ui" or values.max(initial=0) > 255 or values.min(initial=0) < 0:
        raise InputError(f"{path}: {values.dtype} up to {values.max()}, expected classes 0 to 255")
    return values.astype(np.uint8)


READERS = {"depth": _depth, "inverse_depth": _depth, "log_depth": _depth, "normals": _normals}
READERS |= dict.fromkeys(("saliency", "edge", "mask"), _binary)
"""How labels of tasks without classes are read; other tasks have class indices, or no labels."""


class DataSet(DiskDataSet):
    """A folder of splits; an id is `SPLIT/images/NAME.ENDING`."""

    name = "folder"
    title = "folder data set"
    image = "{id}"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if not self.splits():
            have = ", ".join(sorted(p.name for p in root.iterdir())[:6]) or "nothing"
            raise InputError(
                f"{root}: expected train/images/ and val/images/ (see "
                f"`degmix-edge data check --help`), found {have}"
            )
        own = _read_classes(root / "classes.yaml")
        found = {
            task.name
            for split in self.splits()
            for task in (root / split).iterdir()
            if task.is_dir() and task.name != "images"
        }
        for name in sorted(found | set(own)):
            known = [n for n in tasks.names() if n in READERS or tasks.find(n).decode == "argmax"]
            if name not in known:
                raise ConfigError(f"{root}: " + unknown("task", name, known))
        self.classes = {
            name: own.get(name, tasks.find(name).classes) for name in tasks.names() if name in found
        }
        for name, classes in self.classes.items():
            if tasks.find(name).num_channels is None and len(classes) < 2:
                raise ConfigError(
                    f"{root / 'classes.yaml'}: no class names for task {name!r}; expected a line "
                    f"`{name}: [first, second, ...]`"
                )
        self.labels = {
            name: LabelFile("{split}/" + name + "/{id}", READERS.get(name, _classes))
            for name in self.classes
        }

    def splits(self) -> list[str]:
        """Folders that hold images."""
        return [split for split in SPLITS if (self.root / split / "images").is_dir()]

    def ids(self, split: str) -> list[str]:
        """Every image of the split."""
        found = sorted((self.root / split / "images").iterdir())
        images = [path for path in found if path.suffix.lower() in IMAGES]
        return [path.relative_to(self.root).as_posix() for path in images]

    def label_path(self, task: str, sample: str) -> Path:
        """`SPLIT/TASK/NAME.png` or `.npy`; the first of them where there is none."""
        split, _, name = Path(sample).parts
        paths = [self.root / split / task / f"{Path(name).stem}{ending}" for ending in LABELS]
        return next((path for path in paths if path.is_file()), paths[0])


def _read_classes(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    try:
        content = parse_yaml(read_text(path, "list of classes")) or {}
        return {task: tuple(str(name) for name in names) for task, names in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected lines `semseg: [first, second, ...]` ({error})"
        ) from None
