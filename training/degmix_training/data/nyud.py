"""NYUD-v2: 795 training and 654 validation images of rooms; semseg (40), depth, normals, edge.

Silberman et al. 2012. Two layouts are about, and their images have different sizes: `NYUDv2` of the
ATRC authors (425x560, PNG) and `NYUD_MT` of the ASTMT authors (480x640, JPEG). They are told apart
by their files and never mixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from degmix_edge.errors import InputError
from degmix_training.data import _disk
from degmix_training.data._disk import DiskDataSet, LabelFile

CLASSES = (
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk "
    "shelves curtain dresser pillow mirror floor_mat clothes ceiling books refrigerator television "
    "paper towel shower_curtain box whiteboard person night_stand toilet sink lamp bathtub bag "
    "other_structure other_furniture other_prop"
).split()
"""The 40 classes of Gupta et al. 2013."""
SIZES = {"NYUDv2": (425, 560), "NYUD_MT": (480, 640)}


def _semseg(path: Path) -> np.ndarray:
    """0 is unlabelled and becomes 255; 1 to 40 become 0 to 39."""
    values = _disk.classes(path)
    if values.max(initial=0) > 40 and values.max() != 255:
        raise InputError(f"{path}: label value {values.max()}, expected 0 (unlabelled) to 40")
    return np.where(values == 255, 255, values - np.uint8(1)).astype(np.uint8)


LAYOUTS = {
    "NYUDv2": (
        "images/{id}.png",
        {
            "semseg": LabelFile("segmentation/{id}.png", _semseg),
            "depth": LabelFile("depth/{id}.npy", _disk.depth_array),
            "normals": LabelFile("normals/{id}.png", _disk.normals_png),
            "edge": LabelFile("edge/{id}.png", _disk.binary),
        },
    ),
    "NYUD_MT": (
        "images/{id}.jpg",
        {
            "semseg": LabelFile("segmentation/{id}.png", _semseg),
            "depth": LabelFile("depth/{id}.npy", _disk.depth_array),
            "normals": LabelFile("normals/{id}.npy", _disk.normals_array),
            "edge": LabelFile("edge/{id}.npy", _disk.edge_array),
        },
    ),
}


class DataSet(DiskDataSet):
    """NYUD-v2 in either layout; `layout` says which."""

    name = "nyud"
    title = "NYUD-v2"
    classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "semseg": tuple(CLASSES),
        "depth": (),
        "normals": (),
        "edge": (),
    }
    edge_tolerance = 0.011
    absent_classes = "zero"
    expected: ClassVar[dict[str, int]] = {"train": 795, "val": 654}

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.layout = _layout(root)
        self.size = SIZES[self.layout]
        self.image, self.labels = LAYOUTS[self.layout]

    def splits(self) -> list[str]:
        return list(_disk.split_files(self.root / "gt_sets"))

    def ids(self, split: str) -> list[str]:
        return _disk.listed(_disk.split_files(self.root / "gt_sets")[split])


def _layout(root: Path) -> str:
    """Which of the two, by the endings of images, normals and edges."""
    if not (root / "gt_sets").is_dir() or not (root / "images").is_dir():
        hint = [p.name for p in root.iterdir() if p.is_dir() and (p / "gt_sets").is_dir()]
        raise InputError(
            f"{root}: no NYUD-v2: expected folders gt_sets/ and images/, found "
            f"{', '.join(sorted(p.name for p in root.iterdir())[:6]) or 'nothing'}."
            + (f" Did you mean {root / hint[0]}?" if hint else "")
        )
    endings = {"images": (".png", ".jpg"), "normals": (".png", ".npy"), "edge": (".png", ".npy")}
    votes: dict[str, list[str]] = {"NYUDv2": [], "NYUD_MT": []}
    for folder, pair in endings.items():
        have = {path.suffix for path in (root / folder).glob("*")}
        for layout, ending in zip(votes, pair, strict=True):
            if ending in have:
                votes[layout].append(f"{folder}/*{ending}")
    found = [layout for layout, files in votes.items() if files]
    if len(found) == 2:
        raise InputError(
            f"{root}: mixes two layouts of NYUD-v2: {', '.join(votes['NYUDv2'])} are of NYUDv2 "
            f"(425x560) and {', '.join(votes['NYUD_MT'])} of NYUD_MT (480x640). Their images and "
            f"labels do not fit: unpack each archive into a folder of its own"
        )
    if not found:
        raise InputError(f"{root}: images/ is empty; the archive was not unpacked to its end")
    return found[0]
