"""PASCAL-Context: semseg (21), human parts (7), saliency, normals, edge; 4998 and 5105 images.

Chen et al. 2014 for parts, Mottaghi et al. 2014 for context, Maninis et al. 2019 (ASTMT) for the
distilled normals and saliency. The layout is that of the ATRC authors' archive.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from degmix_edge import tasks
from degmix_edge.errors import InputError
from degmix_training.data import _disk
from degmix_training.data._disk import DiskDataSet, LabelFile
from degmix_training.data.nyud import CLASSES as NYUD_CLASSES

CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()
PARTS = {
    1: "head leye reye lear rear lebrow rebrow nose mouth hair",
    2: "torso neck",
    3: "luarm ruarm",
    4: "llarm lhand rlarm rhand",
    5: "luleg ruleg",
    6: "llleg lfoot rlleg rfoot",
}
PART_OF = {name: part for part, names in PARTS.items() for name in names.split()}
LISTS = "ImageSets/Context"


class DataSet(DiskDataSet):
    """PASCAL-Context in the layout of the ATRC archive."""

    name = "pascal_context"
    title = "PASCAL-Context"
    size = (512, 512)
    edge_tolerance = 0.0075
    absent_classes = "zero"
    expected: ClassVar[dict[str, int]] = {"train": 4998, "val": 5105}
    classes: ClassVar[dict[str, tuple[str, ...]]] = {
        "semseg": tuple(CLASSES),
        "human_parts": tasks.find("human_parts").classes,
        "saliency": (),
        "normals": (),
        "edge": (),
    }
    image = "JPEGImages/{id}.jpg"
    labels: ClassVar[dict[str, LabelFile]] = {
        "semseg": LabelFile("semseg/pascal-context/{id}.png", _disk.classes),
        "human_parts": LabelFile("human_parts/{id}.mat", lambda path: human_parts(path)),
        "saliency": LabelFile("sal_distill/{id}.png", _disk.probability),
        "normals": LabelFile("normals_distill/{id}.png", _disk.normals_png),
        "edge": LabelFile("pascal-context/trainval/{id}.mat", lambda path: edge(path)),
    }

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if not (root / LISTS).is_dir() or not (root / "JPEGImages").is_dir():
            have = ", ".join(sorted(p.name for p in root.iterdir())[:6]) or "nothing"
            hint = [p for p in root.iterdir() if (p / LISTS).is_dir()]
            raise InputError(
                f"{root}: no PASCAL-Context: expected folders {LISTS}/ and JPEGImages/, found "
                f"{have}." + (f" Did you mean {hint[0]}?" if hint else "")
            )

    def splits(self) -> list[str]:
        return list(_disk.split_files(self.root / LISTS))

    def ids(self, split: str) -> list[str]:
        return _disk.listed(_disk.split_files(self.root / LISTS)[split])

    def label_path(self, task: str, sample: str) -> Path:
        """Semantic labels of VOC 2012 come first, those of PASCAL-Context where there are none."""
        if task == "semseg" and (voc := self.root / f"semseg/VOC12/{sample}.png").is_file():
            return voc
        return super().label_path(task, sample)

    def read_label(self, task: str, sample: str, size: tuple[int, int]) -> np.ndarray:
        """Normals are kept where the context class is one that NYUD-v2 has, too."""
        label = super().read_label(task, sample, size)
        if task != "normals" or not self.indoor:
            return label
        context = read_mat(self.label_path("edge", sample))["LabelMap"]
        return label * np.isin(context, self.indoor)[..., None].astype(np.float32)

    @cached_property
    def indoor(self) -> list[int]:
        """Context classes that NYUD-v2 shares, by `pascal-context/labels.txt`; none without it."""
        path = self.root / "pascal-context/labels.txt"
        if not path.is_file():
            return []
        shared = {name.replace("_", "") for name in NYUD_CLASSES} | {"tvmonitor"}
        pairs = [line.split(":", 1) for line in path.read_text().splitlines() if ":" in line]
        return [int(number) for number, name in pairs if name.strip().replace(" ", "") in shared]


def human_parts(path: Path) -> np.ndarray:
    """Parts 1 to 6 over background 0; a later person covers an earlier one.

    An image without a part is ignored (255) as a whole.
    """
    things = np.atleast_1d(read_mat(path)["anno"].objects)
    label: np.ndarray | None = None
    for thing in things:
        if label is None:
            label = np.zeros(thing.mask.shape, np.uint8)
        if getattr(thing, "class") != "person":
            continue
        for part in np.atleast_1d(thing.parts):
            if (name := getattr(part, "part_name", None)) in PART_OF:
                label[part.mask > 0] = PART_OF[name]
    if label is None:
        raise InputError(f"{path}: holds no object, expected PASCAL parts (`anno.objects`)")
    return label if label.any() else np.full_like(label, 255)


def edge(path: Path) -> np.ndarray:
    """Boundaries between context classes: where the Laplacian is not zero, thinned."""
    from scipy.ndimage import laplace
    from skimage.morphology import thin

    boundary = laplace(read_mat(path)["LabelMap"].astype(np.int32), mode="nearest") != 0
    return np.asarray(thin(boundary), np.uint8)


def read_mat(path: Path) -> dict[str, Any]:
    """A MATLAB file, structs as objects.

    Raises:
        InputError: Missing or damaged.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"{path}: missing")
    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise InputError(f"{path}: damaged or cut off ({error}); unpack it again") from None
    return content
