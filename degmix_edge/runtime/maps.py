"""Task maps: numpy arrays that know what they are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.errors import ConfigError, InputError, ShapeError
from degmix_edge.metrics import ignored
from degmix_edge.preprocess import Image, Placement, read_image
from degmix_edge.runtime.latency import Latency
from degmix_edge.runtime.legend import bar_legend, class_legend, vector_legend
from degmix_edge.runtime.saving import write_maps
from degmix_edge.tasks import TaskSpec, colour, farthest, look


class TaskMap(np.ndarray):
    """One task's map of one image, at the network's size, with the padding cut off.

    The map is uint8 or uint16 `(H, W)` class indices, float32 `(H, W)` probabilities, metres or
    other numbers, or float32 `(H, W, C)` where a pixel has several. A raw output has the shape that
    the network gives it, without the batch.

    Slices, copies and pickles keep `spec` and `placement`, and so does arithmetic whose result has
    the map's shape and dtype. Every other result of numpy's functions is what a plain array gives:
    `depth > 2` and `depth.mean(axis=0)` are plain arrays, and `depth.max()` is a number.

    Attributes:
        spec: The task, with its classes, palette and unit.
        placement: Where the map lies on the image, and how large the image was.
    """

    spec: TaskSpec
    placement: Placement

    def __new__(cls, array: np.ndarray, spec: TaskSpec, placement: Placement) -> TaskMap:
        """Make a map that shares its memory with `array`."""
        view = np.asarray(array).view(cls)
        view.spec, view.placement = spec, placement
        return view

    def __array_finalize__(self, source: Any) -> None:
        if source is not None and hasattr(source, "spec"):
            self.spec, self.placement = source.spec, source.placement

    def __array_wrap__(
        self, array: np.ndarray, context: Any = None, return_scalar: bool = False
    ) -> Any:
        if array.shape == self.shape and array.dtype == self.dtype and self.ndim:
            return super().__array_wrap__(array, context)
        plain = np.asarray(array)
        return plain if plain.ndim else plain[()]

    def __reduce__(self) -> tuple[Callable[..., TaskMap], tuple[Any, ...]]:
        # The plain array inside brings numpy's own pickling, without a copy in protocol 5.
        return type(self), (np.asarray(self), self.spec, self.placement)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.spec.name

    @property
    def unit(self) -> str:
        """Unit of the values."""
        return self.spec.unit

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index; empty where the task has none."""
        return self.spec.classes

    def colour(self, limit: float | None = None) -> np.ndarray:
        """The map as a picture, uint8 RGB `(H, W, 3)`.

        Args:
            limit: Metres at the far end of the depth colours. None takes the map's 98th
                percentile. Give one limit to pictures that are to be compared.
        """
        return colour(np.asarray(self), self.spec, limit)

    def overlay(
        self, image: Image, alpha: float = 0.5, *, limit: float | None = None
    ) -> np.ndarray:
        """The coloured map over its image, uint8 RGB `(H, W, 3)` of the image's own size.

        Pixels that the network did not see show the image alone.

        Args:
            image: The image that the map is of: a path, a Pillow image, or a uint8 RGB array.
            alpha: Weight of the map's colours. 0 shows the image alone, and 1 the map alone.
            limit: The same as in `colour`. The percentile is that of the map at the network's size,
                so that `colour`, `overlay` and `legend` of a map agree.

        Raises:
            ConfigError: `alpha` is not from 0 to 1.
            InputError: The image cannot be read, or has another size than the map's image.
            ShapeError: This is a part of a map, as in `at_image_size`.
        """
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha: got {alpha}, expected a number from 0 to 1")
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        placed = self.placement
        if (height, width) != (placed.image_height, placed.image_width):
            raise InputError(
                f"overlay: got an image of {width} x {height} pixels (width x height), but the "
                f"{self.task} map is of an image of {placed.image_width} x {placed.image_height}; "
                f"give the image that the session was given"
            )
        colours = colour(self.at_image_size(), self.spec, self._limit(limit))
        mixed = np.rint(pixels * np.float32(1 - alpha) + colours * np.float32(alpha))
        picture = pixels.copy()
        placed.seen(picture)[:] = placed.seen(mixed)
        return picture

    def legend(self, limit: float | None = None) -> np.ndarray:
        """What the map's colours mean, as a picture, uint8 RGB `(H, W, 3)` of its own size.

        Class maps give a column of swatches with the class names. Probabilities and depth give a
        bar of the colours with both ends and the unit. Normals and flow give one bar for each
        component, which varies while the others are zero. Colours of longer vectors have no meaning
        of their own, so their legend is the name.

        Args:
            limit: The same as in `colour`; give the same value to both.
        """
        shown = look(self.spec)
        if shown in ("classes", "strongest"):
            return class_legend(self.spec)
        if shown in ("normal", "flow", "components"):
            return vector_legend(self.spec, self._limit(limit))
        return bar_legend(self.spec, self._limit(limit))

    def at_image_size(self) -> np.ndarray:
        """The map on the image's own pixels, `(H, W)` or `(H, W, C)`.

        Class indices are taken from the nearest pixel. Other values are interpolated bilinearly,
        and vectors have unit length again. Pixels that the network did not see, because the bundle
        crops images, have no value. They are NaN or, in a map of class indices, the label that no
        metric scores: 255, or 65535 where there are more than 255 classes.

        Raises:
            ShapeError: This is a part of a map, such as a slice, whose place on the image is not
                known.
        """
        placed = self.placement
        if placed.window is None and self.shape[:2] == (placed.image_height, placed.image_width):
            return np.asarray(self)
        last = (self.spec.components,) if self.spec.components else ()
        whole = (placed.height, placed.width, *last)
        if self.spec.is_raw or self.shape != whole:
            raise ShapeError(
                f"{self.task}: got a part of shape {self.shape}, expected the whole map {whole}; "
                f"take the part from the result of at_image_size()"
            )
        inside = dataclasses.replace(placed, top=0, left=0)
        resized = inside.to_image_size(
            np.asarray(self), labels=self.spec.has_labels, unseen=ignored(self.spec.num_channels)
        )
        if self.spec.decode == "unit_vector":
            resized /= np.maximum(np.linalg.norm(resized, axis=-1, keepdims=True), 1e-6)
        return resized

    def _limit(self, limit: float | None) -> float:
        """The value at the far end of the colours."""
        if look(self.spec) not in ("ramp", "range", "flow"):
            return 1.0
        return farthest(np.abs(self) if look(self.spec) == "range" else np.asarray(self), limit)


class Maps(dict[str, TaskMap]):
    """The task maps of one image, by task name. Copies and pickles keep everything.

    Attributes:
        latency: What the call cost that computed these maps, in milliseconds. It is the call's own
            also where several threads share the session, unlike `Session.latency`. None for maps
            that no session computed, such as recorded ones.
    """

    latency: Latency | None = None

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, np.ndarray],
        tasks: Iterable[TaskSpec],
        placement: Placement,
        index: int | None = None,
    ) -> Maps:
        """The maps of one image from a backend's arrays.

        Args:
            arrays: By task, with the batch first.
            tasks: The tasks.
            placement: Where the image lies in the network's input.
            index: Which image of the batch; None is the only one.
        """
        maps = cls()
        for task in tasks:
            array, place = arrays[task.name], placement
            if task.is_raw:
                is_row = index is not None or array.shape[:1] == (1,)
                array = array[index or 0] if is_row else array
            else:
                place = placement.at_stride(task.stride)
                array = place.crop(array[index or 0])
            maps[task.name] = TaskMap(array, task, place)
        return maps

    def __missing__(self, task: str) -> TaskMap:
        raise KeyError(f"no task {task!r} in this bundle. Have: {', '.join(self)}")

    def copy(self) -> Maps:
        """Another `Maps` with the same maps and latency."""
        copied = type(self)(self)
        copied.latency = self.latency
        return copied

    def save(
        self, folder: str | os.PathLike[str], stem: str = "maps", *, native: bool = False
    ) -> list[Path]:
        """Write every map as a PNG file whose pixels are numbers, and all of them as one NPZ file.

        `<stem>.<task>.png` is, by the kind of the map:

        * classes: 8 bits a pixel, the class index, with the task's palette, so that viewers show
          colours. `np.asarray(PIL.Image.open(path))` gives the indices. OpenCV replaces them with
          the colours, so take them from the NPZ file there. More than 256 classes have 16 bits a
          pixel and no colours.
        * depth: 16-bit grey, millimetres, rounded; depths beyond 65.535 m are written as 65535.
          (A task of the same kind with another unit is written in thousandths of its unit.)
        * probabilities: 8-bit grey, the probability times 255, rounded.
        * normals: 8-bit RGB, x, y and z in this order, each as `(n + 1) / 2 * 255`, rounded.

        Values of other kinds, such as flow, embeddings and raw outputs, have no PNG file. NaN is
        written as 0. `<stem>.npz` holds the arrays themselves, by task name, without any
        loss; `np.load(path)["depth"]` reads one.

        Args:
            folder: The folder to write into; it is made if it does not exist.
            stem: The beginning of every file name. Files that exist are replaced.
            native: Write the maps at the image's own size, not at the network's.

        Returns:
            The paths: the PNG files in the order of their tasks, then the NPZ file.

        Raises:
            ConfigError: `stem` is empty or has a folder in it.
            OutputError: The folder is a file or cannot be written, or the disk is full. Each file
                is either complete or what it was before.
        """
        arrays = {
            name: array.at_image_size() if native and not array.spec.is_raw else np.asarray(array)
            for name, array in self.items()
        }
        specs = {name: array.spec for name, array in self.items()}
        return write_maps(Path(folder), stem, arrays, specs)
