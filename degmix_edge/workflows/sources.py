"""Images by name: a folder, a data set (`nyud:DIR`, `synthetic:64`), or photographs (`photos`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge import progress
from degmix_edge import tasks as all_tasks
from degmix_edge.errors import ConfigError, InputError
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit, list_images, read_image
from degmix_edge.registry import unknown
from degmix_edge.runtime.frames import (
    OF_MAPS,
    Frame,
    endings_of,
    fit_frame,
    image_of,
    read_first,
)
from degmix_edge.workflows.frame_folders import frame_paths, made_up_frame, needed_inputs

if TYPE_CHECKING:
    from degmix_training.data import DataSet, Samples

    from degmix_edge.tasks import TaskSpec

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle")
"""Of scikit-image's wheel."""
SCENES = 64
"""Synthetic scenes, where no count is given."""
PER_METRE = {"m": 1, "cm": 100, "mm": 1000}
"""Units of depth."""


@dataclass(frozen=True)
class NamedImage:
    """An image of any size, with what labels it has; labels have the image's size.

    Attributes:
        load: Gives pixels, uint8 `(H, W, 3)`, and labels by task; from their files each time. Of a
            network that takes depth or other numbers it gives these in place of the pixels, and of
            one with further inputs a frame.
    """

    name: str
    load: Callable[[], tuple[Frame, Mapping[str, np.ndarray]]]

    @property
    def frame(self) -> Frame:
        """What a session takes."""
        return self.load()[0]

    @property
    def image(self) -> np.ndarray:
        """The image alone, uint8 `(H, W, 3)`."""
        return read_image(image_of(self.frame))

    def feed(self, fit: Fit, spec: NetworkSpec) -> dict[str, np.ndarray]:
        """What a backend takes."""
        return fit_frame(self.frame, fit, spec)[0]


def images(
    source: str,
    fit: Fit,
    split: str = "test",
    specs: Mapping[str, TaskSpec] | None = None,
    *,
    network: NetworkSpec | None = None,
    label_map: str | Path | None = None,
) -> list[NamedImage]:
    """Images of a folder, of a data set (`synthetic:64`, `nyud:DIR`), or photographs (`photos`).

    Images of a data set come at the input's size where they fit into it, as in an evaluation.
    Labels that do not fit a task are left out, with a warning.

    Args:
        source: What to read.
        fit: The network's input.
        split: Which split of a data set.
        specs: Tasks whose labels are wanted.
        label_map: A file that says which class each id of the label files is.
        network: What the images are for: one that takes more than an image needs a folder of
            frames, as `frame_folders.frame_paths` says.

    Raises:
        InputError: No folder, no images, or one that cannot be read; or no frames where the network
            needs them.
        ConfigError: No such data set, a count that is no number, or a label map without labels.
    """
    if network is not None:
        _check_kind(source, network)
    if label_map is not None and not _is_data_set(source):
        raise ConfigError(
            f"label map {label_map}: {source} has no labels; give a folder that has them as "
            "folder:DIR"
        )
    if network is not None and needed_inputs(network):
        frames = frame_paths(Path(source), network)
        return [NamedImage(name, partial(_frame, files)) for name, files in frames.items()]
    if source == "photos":
        return photographs()
    if not _is_data_set(source):
        paths = list_images(source, endings_of(network))
        return [NamedImage(path.name, partial(unlabelled, path, network)) for path in paths]
    data, count = data_set(source, fit.size, label_map)
    tasks, problems = labelled(data, specs or {})
    for problem in problems:
        progress.warn(f"{problem}; those labels are left out")
    needs_depth = network is not None and network.takes_map and "depth" not in tasks
    read = [*tasks, "depth"] if needs_depth else tasks
    if "depth" in read and "depth" not in data.classes:
        raise InputError(f"{source}: has no depth, which the network takes; give a folder of it")
    return as_images(data.open_split(_split(data, split), read, count), fit, tasks, network)


def as_images(
    samples: Samples, fit: Fit, tasks: Sequence[str], network: NetworkSpec | None = None
) -> list[NamedImage]:
    """Samples as evaluation has them, with labels of `tasks`, each read when it is asked for.

    A network that takes depth gets the samples' own.
    """
    from degmix_training.data import at_size

    def load(index: int) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        sample = at_size(samples[index], fit)
        labels = {t: v for t, v in sample.labels.items() if t in tasks}
        if network is None or not network.takes_map:
            return sample.image, labels
        return _in_unit(sample.labels["depth"], network), labels

    return [NamedImage(name, partial(load, index)) for index, name in enumerate(samples.names)]


def _in_unit(depth_m: np.ndarray, network: NetworkSpec) -> np.ndarray:
    """Depth in the unit of a network's input; where that has no name, its scale makes metres."""
    return depth_m * np.float32(PER_METRE.get(network.unit, 1 / network.scale))


def _check_kind(source: str, network: NetworkSpec) -> None:
    """Refuse pictures for a network that takes none.

    Raises:
        InputError: `source` has nothing else.
    """
    is_data = source != "photos" and _is_data_set(source)
    if network.takes_map and (source == "photos" or (is_data and network.color == "other")):
        depth = ", or synthetic:64" if network.color == "depth" else ""
        raise InputError(
            f"{source}: has pictures, and the network {network.model!r} takes {network.color}; "
            f"give a folder with .npy files or image files of such numbers{depth}"
        )


def made_up_image(fit: Fit, network: NetworkSpec) -> NamedImage:
    """Return a synthetic scene for checks where the user gave no image.

    A network that takes depth gets the scene's own; one of other numbers gets some that are made
    up, and so are inputs beside the image.
    """
    scene = images("synthetic:1", fit, specs={"depth": all_tasks.find("depth").spec()})[0]
    pixels, (_, labels) = scene.image, scene.load()
    first, note = pixels, ""
    if network.color == "depth":
        first, note = _in_unit(labels["depth"], network), ", its depth"
    elif network.takes_map:
        first, note = _made_up_numbers(pixels, network), ", made-up numbers"
    if not needed_inputs(network):
        return NamedImage(f"{scene.name}{note}", lambda: (first, {}))
    frame = made_up_frame(pixels, first, network)
    return NamedImage(f"{scene.name}{note} with made-up other inputs", lambda: (frame, {}))


def _made_up_numbers(pixels: np.ndarray, network: NetworkSpec) -> np.ndarray:
    """Numbers with the mean and the spread that a network takes; bytes where it has none."""
    planes = pixels[..., np.arange(network.channels) % 3]
    mean, std = np.array(network.mean), np.array(network.std)
    if (network.scale, {*network.mean}, {*network.std}) == (1, {0}, {1}):
        return planes
    return np.asarray((mean + std * (planes - 127.5) / 64) / network.scale, np.float32)


def unlabelled(
    value: Any, network: NetworkSpec | None = None
) -> tuple[Frame, Mapping[str, np.ndarray]]:
    """Return an image of the user's as `NamedImage.load` does; a frame stays as it is."""
    return value if isinstance(value, Mapping) else read_first(value, network), {}


def _frame(files: Mapping[str, Path]) -> tuple[Frame, Mapping[str, np.ndarray]]:
    return files, {}


def check_images(source: str) -> None:
    """Fail before long work where `source` names no images; pixels are read later.

    Raises:
        InputError, ConfigError: As `images`.
    """
    if source == "photos":
        return
    if _is_data_set(source):
        data_set(source, (1, 1))
    else:
        list_images(source, OF_MAPS)  # which of them the network takes is not known yet


def _is_data_set(source: str) -> bool:
    from degmix_training import data

    name, separator, _ = source.partition(":")
    return bool(separator or name in data.names()) and not Path(source).exists()


def is_rendered(source: str) -> bool:
    """Whether `source` names scenes that are rendered, as `synthetic:64` does."""
    from degmix_training import data

    return _is_data_set(source) and data.is_rendered(source.partition(":")[0])


def data_set(
    text: str, size: tuple[int, int], label_map: str | Path | None = None
) -> tuple[DataSet, int | None]:
    """`synthetic:64`, `nyud:DIR` or `nyud:DIR:64` as a data set, and how many samples; None is all.

    Raises:
        ConfigError: No such data set, no folder where it needs one, or no count.
        InputError: The folder does not have its layout.
    """
    from degmix_training import data

    ids = None if label_map is None else Path(label_map)
    name, _, rest = text.partition(":")
    if name not in data.names():
        raise ConfigError(
            unknown("data set", name, data.names()) + " A folder of images also does."
        )
    if data.is_rendered(name):
        if rest and (not rest.isdigit() or int(rest) < 1):
            raise ConfigError(f"{text}: expected a count of images, as in synthetic:64")
        return data.open_data(name, None, size, ids), int(rest or SCENES)
    folder, _, count = rest.rpartition(":")
    if not (folder and count.isdigit() and int(count)) or Path(rest).exists():
        folder, count = rest, ""
    root = Path(folder) if folder else None
    return data.open_data(name, root, size, ids), int(count or 0) or None


def labelled(data: DataSet, specs: Mapping[str, TaskSpec]) -> tuple[list[str], list[str]]:
    """Which of the tasks `data` has labels for, and what is wrong with labels that do not fit."""
    tasks, problems = [], []
    for task, spec in specs.items():
        theirs = data.classes.get(task)
        if theirs and spec.classes and len(theirs) != spec.num_channels:
            problems.append(
                f"task {task!r}: the network has {spec.num_channels} classes, {data.title} "
                f"has {len(theirs)}"
            )
        elif theirs is not None:
            tasks.append(task)
    return tasks, problems


def samples(
    text: str,
    size: tuple[int, int],
    specs: Mapping[str, TaskSpec],
    split: str | None = None,
    count: int | None = None,
    *,
    label_map: str | Path | None = None,
) -> tuple[DataSet, Samples]:
    """Labelled samples to score a network on; default split: val, of synthetic test.

    Raises:
        ConfigError: As `data_set`; or its classes are not the network's.
        InputError: The folder does not have its layout, or it has none of the network's labels.
    """
    if not _is_data_set(text) and Path(text).is_dir():
        raise InputError(
            f"{text}: a folder has no labels by itself; give its kind, as in folder:{text} "
            f"(`degmix-edge data check {text}` says which it is)"
        )
    data, first = data_set(text, size, label_map)
    tasks, problems = labelled(data, specs)
    if problems:
        raise ConfigError(f"{problems[0]}; expected a network trained on it")
    if not tasks:
        raise InputError(
            f"{text}: has labels for {', '.join(data.classes)}, the network has {', '.join(specs)}"
        )
    return data, data.open_split(split or _split(data, "test"), tasks, count or first)


def _split(data: DataSet, split: str) -> str:
    """Published test labels are rare: val is what is held out."""
    from degmix_training.data import is_rendered

    return "val" if split == "test" and not is_rendered(data.name) else split


def photographs() -> list[NamedImage]:
    """The photographs that ship inside scikit-image."""
    import skimage.data

    def load(name: str) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        picture = getattr(skimage.data, name)()
        return picture[0] if isinstance(picture, tuple) else picture, {}

    return [NamedImage(name, partial(load, name)) for name in PHOTOGRAPHS]
