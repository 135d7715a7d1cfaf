"""Anyone's own labels: a folder a split, in it a folder of images and one a task.

```
ROOT/classes.yaml                 semseg: [road, car, ...]     (tasks with classes)
ROOT/label_map.yaml               semseg: {7: road, 0: ignored}   (where files have other ids)
ROOT/train/images/NAME.png        or .jpg
ROOT/train/semseg/NAME.png        class indices, 255 ignored; human_parts the same
ROOT/train/saliency/NAME.png      0 and 255, or 0 and 1 (then 255 is ignored); edge, mask the same
ROOT/train/depth/NAME.npy         metres; or NAME.png, 16 bits, millimetres; 0 is invalid
ROOT/train/normals/NAME.npy       (H, W, 3), x right, y down, z forward; or NAME.png, 2 v / 255 - 1
ROOT/val/...                      the same
```
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from degmix_edge import tasks
from degmix_edge.config import parse_yaml, read_text
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.registry import unknown
from degmix_training.data import _disk
from degmix_training.data import _label_map as label_maps
from degmix_training.data._base import SPLITS
from degmix_training.data._disk import DiskDataSet, LabelFile
from degmix_training.data._label_map import LabelMap

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


def _ids(path: Path) -> np.ndarray:
    """Integers of any range, which a label map turns into classes."""
    values = _disk.png(path) if path.suffix == ".png" else _disk.array(path)
    if values.dtype.kind not in "uib":
        raise InputError(f"{path}: {values.dtype} values, expected the integer ids of classes")
    return values


READERS = {"depth": _depth, "inverse_depth": _depth, "log_depth": _depth, "normals": _normals}
READERS |= dict.fromkeys(("saliency", "edge", "mask"), _binary)
"""How labels of tasks without classes are read; other tasks have class indices, or no labels."""


class DataSet(DiskDataSet):
    """A folder of splits; an id is `SPLIT/images/NAME.ENDING`."""

    name = "folder"
    title = "folder data set"
    image = "{id}"

    def __init__(self, root: Path, label_map: Path | None = None) -> None:
        """Open the folder.

        Args:
            root: The folder.
            label_map: A file that says which class each id of the label files is; None takes
                `label_map.yaml` of the folder, if there is one.

        Raises:
            InputError: It does not have this data set's layout.
            ConfigError: Classes or label maps do not fit.
        """
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
        own_map = root / label_maps.FILE
        self._maps = self._label_maps(label_map or (own_map if own_map.exists() else None))
        self.labels = {
            name: LabelFile("{split}/" + name + "/{id}", self._reader(name))
            for name in self.classes
        }

    def _label_maps(self, path: Path | None) -> dict[str, LabelMap]:
        if path is None:
            return {}
        counts = {
            name: 2 if reader is _binary else len(self.classes[name])
            for name in self.classes
            if (reader := READERS.get(name, _classes)) in (_binary, _classes)
        }
        return label_maps.read_label_maps(path, self.classes, counts)

    def _reader(self, task: str) -> Callable[[Path], np.ndarray]:
        if task not in self._maps:
            return READERS.get(task, _classes)
        found = self._maps[task]
        return lambda path: found.apply(_ids(path), path)

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
