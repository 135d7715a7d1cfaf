"""Rerun: a live view, or a recording that its viewer opens."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.messages import class_map, group
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions, need
from degmix_edge.sinks._file import FileSink
from degmix_edge.sinks._picture import Painter, Unseen, pixels_of
from degmix_edge.sinks._view import View
from degmix_edge.tasks import TaskSpec, look, palette

EXPECTED = "rerun, or rerun:PORT, or rerun:FILE.rrd"
NAME, ENDING = "rerun", ".rrd"
PORT = 9876
SERVER_MEMORY = "64MB"
"""What the server keeps for viewers that connect late."""
JPEG_QUALITY = 75
FLUSH_S = 10.0
SINCE_1970_NS = 10**17
"""Stamps from here on are times since 1970; smaller ones are times since a recording's start."""


def recognises(text: str) -> bool:
    """Return whether a text names Rerun, or is the path of its recording."""
    return text == NAME or text.startswith(f"{NAME}:") or text.lower().endswith(ENDING)


def open_sink(text: str, network: NetworkSpec, options: SinkOptions) -> Sink:
    """Return a recording where the text names a file, else a live view.

    Raises:
        ConfigError: What follows the name is no file and no port, or Rerun is not installed.
        OutputError: The file cannot be written, or the port is taken.
    """
    need(NAME, "view", text)
    place = text.removeprefix(NAME).removeprefix(":")
    if place.lower().endswith(ENDING):
        return RrdSink(Path(place), network, options)
    if place and not (place.isascii() and place.isdigit() and 0 < int(place) < 65536):
        raise ConfigError(f"{text}: expected {EXPECTED}")
    return RerunView(int(place or PORT), network, options)


class _Log:
    """Logs results: data where Rerun has a type for it, and pictures of everything else."""

    def __init__(self, network: NetworkSpec, options: SinkOptions) -> None:
        import rerun

        self._rerun = rerun
        self._network = network
        self._tasks = options.chosen(network)
        self._painter, self._unseen = Painter(), Unseen()
        self._cameras: set[str] = set()
        self.recording: Any = rerun.RecordingStream("degmix-edge")

    def log(self, result: StreamResult) -> None:
        """Log the image and the maps that are new; a viewer keeps the others."""
        camera, frame = result.camera, result.frame
        if camera not in self._cameras:
            self._cameras.add(camera)
            self._log_classes(camera)
            self._send_layout()
        self._set_time(frame)
        image = self._rerun.Image(pixels_of(frame, self._network))
        self._put(f"{camera}/image", image.compress(jpeg_quality=JPEG_QUALITY))
        new = self._unseen.tasks(result)
        for task in self._tasks:
            if task.name in new:
                task_map = result.maps[task.name]
                self._put(f"{camera}/{group(task)}", self._archetype(camera, task_map))

    def _archetype(self, camera: str, task_map: TaskMap) -> Any:
        """The map as Rerun's type of its numbers."""
        kind, array = look(task_map.spec), np.ascontiguousarray(task_map)
        if kind == "classes":
            return self._rerun.SegmentationImage(array)
        if kind == "ramp":
            unit = 1.0 if task_map.unit == "m" else None
            colours = self._rerun.components.Colormap.Turbo
            ends = (0.0, self._painter.limit(camera, task_map) or 1.0)
            return self._rerun.DepthImage(array, colormap=colours, depth_range=ends, meter=unit)
        return self._rerun.Image(self._painter.colour(camera, task_map))

    def _log_classes(self, camera: str) -> None:
        for task in self._tasks:
            if task.has_labels:
                context = self._rerun.AnnotationContext(_annotations(task))
                self._put(f"{camera}/{group(task)}", context, static=True)

    def _send_layout(self) -> None:
        """One view for each camera's image and for each of its tasks."""
        from rerun import blueprint

        paths = [
            f"{camera}/{name}"
            for camera in sorted(self._cameras)
            for name in ("image", *map(group, self._tasks))
        ]
        views = [blueprint.Spatial2DView(origin=path, name=path) for path in paths]
        layout = blueprint.Blueprint(blueprint.Grid(*views), collapse_panels=True)
        self.recording.send_blueprint(layout)

    def _set_time(self, frame: CapturedFrame) -> None:
        self.recording.set_time("frame", sequence=frame.index)
        stamp = frame.stamp_ns
        if stamp is None:
            return
        if stamp >= SINCE_1970_NS:
            self.recording.set_time("stamp", timestamp=np.datetime64(stamp, "ns"))
        else:
            self.recording.set_time("stamp", duration=np.timedelta64(stamp, "ns"))

    def _put(self, entity: str, content: Any, *, static: bool = False) -> None:
        self.recording.log(entity, content, static=static, strict=True)


class RerunView(View):
    """Serves the newest results to viewers of Rerun, on this and on other machines.

    Args:
        port: The TCP port of the server.
        network: What computes the maps.
        options: Which tasks, and how many results a second.

    Raises:
        OutputError: The port is taken.
    """

    def __init__(self, port: int, network: NetworkSpec, options: SinkOptions) -> None:
        super().__init__(NAME, options)
        _check_port(port)
        self._log = _Log(network, options)
        address = self._log.recording.serve_grpc(grpc_port=port, server_memory_limit=SERVER_MEMORY)
        self.hint = f"{NAME}: open a viewer with: rerun {address}"
        self._start()

    def _show(self, result: StreamResult) -> None:
        self._log.log(result)

    def _end(self) -> None:
        self._log.recording.disconnect()


class RrdSink(FileSink):
    """A recording for Rerun's viewer with every result; images in it are JPEG.

    Args:
        path: The file.
        network: What computes the maps.
        options: Which tasks.
    """

    def __init__(self, path: Path, network: NetworkSpec, options: SinkOptions) -> None:
        super().__init__(path, options)
        self._log = _Log(network, options)

    def _begin(self, part: Path, opened: contextlib.ExitStack) -> None:
        opened.callback(self._log.recording.disconnect)
        self._log.recording.save(part)

    def _add(self, result: StreamResult) -> None:
        self._log.log(result)
        self._flush()

    def _finish(self) -> None:
        self._flush()

    def _flush(self) -> None:
        """Wait for Rerun's own thread, which only then says that it could not write."""
        try:
            self._log.recording.flush(timeout_sec=FLUSH_S)
        except RuntimeError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error}); check space and permissions"
            ) from error


def _check_port(port: int) -> None:
    """Check that a port is free: Rerun's server only logs that it is not.

    Raises:
        OutputError: It is taken, or this user must not use it.
    """
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise OutputError(
            f"{NAME}: port {port} cannot be served ({error.strerror}); give another one, as in "
            f"{NAME}:{PORT + 1}"
        ) from error


def _annotations(task: TaskSpec) -> list[tuple[int, str, tuple[int, int, int]]]:
    """Id, name and colour of each class."""
    names = class_map(task)
    colours = task.palette or palette([name for _, name in names])
    return [(index, name, colours[index]) for index, name in names]
