"""Cityscapes: street scenes, semseg (19 classes) and depth from disparity.

Cordts et al. 2016. Needs the archives leftImg8bit, gtFine, disparity and camera, in one folder. The
2975 training and 500 validation images are 1024x2048.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from degmix_edge.errors import InputError
from degmix_training.data import _disk
from degmix_training.data._disk import DiskDataSet, LabelFile

TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11}
TRAIN_IDS |= {25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
CLASSES = (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky "
    "person rider car truck bus train motorcycle bicycle"
).split()
TO_TRAIN_ID = np.full(256, 255, np.uint8)
TO_TRAIN_ID[list(TRAIN_IDS)] = list(TRAIN_IDS.values())


def _semseg(path: Path) -> np.ndarray:
    """Label ids to the 19 classes that are scored; all others are ignored."""
    return np.asarray(TO_TRAIN_ID[_disk.classes(path)])


def _depth(path: Path) -> np.ndarray:
    """Metres: baseline times focal length by disparity; a stored p > 0 is (p - 1) / 256 pixels."""
    stored = _disk.png(path).astype(np.float32)
    city, name = path.parent.name, path.name.replace("_disparity.png", "_camera.json")
    root, split = path.parents[3], path.parents[1].name
    camera = root / "camera" / split / city / name
    try:
        values = json.loads(camera.read_text())
        scale = values["extrinsic"]["baseline"] * values["intrinsic"]["fx"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{camera}: no camera with extrinsic.baseline and intrinsic.fx ({error}); unpack the "
            f"camera archive beside disparity/"
        ) from None
    disparity = (stored - 1) / 256
    return np.where(disparity > 0, scale / np.maximum(disparity, 1e-3), 0).astype(np.float32)


class DataSet(DiskDataSet):
    """Cityscapes; an id is `SPLIT/CITY/NAME`."""

    name = "cityscapes"
    title = "Cityscapes"
    expected: ClassVar[dict[str, int]] = {"train": 2975, "val": 500}
    classes: ClassVar[dict[str, tuple[str, ...]]] = {"semseg": tuple(CLASSES), "depth": ()}
    image = "leftImg8bit/{id}_leftImg8bit.png"
    labels: ClassVar[dict[str, LabelFile]] = {
        "semseg": LabelFile("gtFine/{id}_gtFine_labelIds.png", _semseg),
        "depth": LabelFile("disparity/{id}_disparity.png", _depth),
    }

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if not (root / "leftImg8bit").is_dir():
            have = ", ".join(sorted(p.name for p in root.iterdir())[:6]) or "nothing"
            raise InputError(f"{root}: no Cityscapes: expected leftImg8bit/, found {have}")

    def splits(self) -> list[str]:
        """Folders of `leftImg8bit`; `test` has no public labels."""
        return [s for s in ("train", "val") if (self.root / "leftImg8bit" / s).is_dir()]

    def ids(self, split: str) -> list[str]:
        """Every image of the split, by city."""
        base, ending = self.root / "leftImg8bit", "_leftImg8bit.png"
        paths = sorted((base / split).glob(f"*/*{ending}"))
        return [path.relative_to(base).as_posix().removesuffix(ending) for path in paths]
