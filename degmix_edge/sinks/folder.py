"""Folders with files for each frame: arrays as NPZ, and a coloured PNG for each task."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image

from degmix_edge import registry
from degmix_edge.errors import OutputError
from degmix_edge.files import check_folder, make_folder, write_file
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions
from degmix_edge.tasks import colour

EXPECTED = "a folder"


def recognises(text: str) -> bool:
    """Return whether a text is a path without an ending, and not the name of another sink."""
    names = registry.names("degmix_edge.sinks")
    is_plain = not Path(text).suffix and ":" not in text and text not in names
    return bool(text) and (Path(text).is_dir() or text.endswith("/") or is_plain)


def open_sink(text: str, network: NetworkSpec, options: SinkOptions) -> Sink:
    """Return a folder that is made if it does not exist."""
    return FolderSink(Path(text), network, options)


class FolderSink(Sink):
    """A folder with `<frame>.npz` and `<frame>.<task>.png` for every frame.

    The name of a frame is its number and, if it has one, its stamp in nanoseconds, as in
    `000012_1700000000033333333`. The files have the tasks that ran on that frame.

    Args:
        path: The folder.
        network: What computes the maps.
        options: Which tasks, and at which size.

    Raises:
        OutputError: The folder has maps of an earlier run, or cannot be written.
        ConfigError: A task does not exist.
    """

    def __init__(self, path: Path, network: NetworkSpec, options: SinkOptions) -> None:
        self.path: Path = path
        self.name = str(path)
        self._native = options.native
        self._tasks = {task.name for task in options.chosen(network)}
        make_folder(path)
        check_folder(path)
        if not options.force and (old := next(path.glob("**/*.npz"), None)):
            raise OutputError(f"{old}: exists; give --force to replace it, or another --out")

    def write(self, result: StreamResult) -> None:
        """Write the maps that are fresh."""
        frame = result.frame
        stamp = "" if frame.stamp_ns is None else f"_{frame.stamp_ns}"
        camera = "" if result.camera == "camera" else result.camera
        maps = {name: result.maps[name] for name in result.fresh if name in self._tasks}
        if maps:
            stem = f"{frame.index:06d}{stamp}"
            write_pictures(self.path / camera, stem, maps, native=self._native)
            self.count += 1

    def close(self) -> None:
        """Do nothing, because every file is complete when it is written."""


def write_pictures(
    folder: Path, stem: str, maps: Mapping[str, TaskMap], *, native: bool
) -> list[Path]:
    """Write `<stem>.npz` with all arrays, and `<stem>.<task>.png` with each map's colours.

    Args:
        folder: The folder, which is made if it does not exist. Files that exist are replaced.
        stem: The beginning of every file name.
        maps: The maps by task. Raw ones have no picture.
        native: Write maps at each image's own size instead of the network's.

    Returns:
        The paths of the files.

    Raises:
        OutputError: The folder or a file cannot be written.
    """
    make_folder(folder)
    arrays = {
        n: m.at_image_size() if native and not m.spec.is_raw else np.asarray(m)
        for n, m in maps.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    files = {folder / f"{stem}.npz": buffer.getvalue()}
    for name, array in arrays.items():
        if maps[name].spec.is_raw:
            continue
        buffer = io.BytesIO()
        PIL.Image.fromarray(colour(array, maps[name].spec)).save(buffer, "PNG")
        files[folder / f"{stem}.{name}.png"] = buffer.getvalue()
    for path, data in files.items():
        write_file(path, data, force=True)
    return list(files)
