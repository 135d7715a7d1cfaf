"""Overlay videos: the camera's image with one task over it, or a grid of all tasks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from degmix_edge.errors import OutputError
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions, need
from degmix_edge.sinks._file import FileSink
from degmix_edge.sinks._picture import Painter, pixels_of

EXPECTED = "a video to write (.mp4, .mkv or .mov)"
ENDINGS = (".mp4", ".mkv", ".mov")
ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
"""FFmpeg's encoders, the best first, each with its options; LGPL builds have the second alone."""
TICKS = 60000
"""Parts of a second in which a video's times are counted: all usual rates are whole numbers."""
USUAL_TICKS = TICKS // 30
"""Time between two frames where the stamps do not say it."""
LONGEST_PAUSE_NS = 60 * 10**9
"""Stamps that are further apart are those of a clock that was set, or of a camera that was off."""
NARROWEST, WIDEST = 960, 1280
"""Pixels between which a grid is wide."""
ASPECT = 16 / 9
LABEL_HEIGHT = 24
ALPHA = 0.5


def recognises(text: str) -> bool:
    """Return whether a text is the path of a video, by its ending."""
    return text.lower().endswith(ENDINGS) and "://" not in text


def open_sink(text: str, network: NetworkSpec, options: SinkOptions) -> Sink:
    """Return a video of the network's maps."""
    return VideoSink(Path(text), network, options)


class VideoSink(FileSink):
    """A video of one camera, whose frames have the times of the camera's stamps.

    One task is drawn over the image, at the image's size. Several are a grid with names, beside the
    image. A map that was held from an earlier frame says so. A frame that has no stamp, an earlier
    one than the frame before, or one that is more than a minute later, comes a thirtieth of a
    second after that frame.

    Args:
        path: The file.
        network: What computes the maps.
        options: Which tasks.

    Raises:
        OutputError: The file exists, or cannot be written.
        ConfigError: A task does not exist, or PyAV is not installed.
    """

    def __init__(self, path: Path, network: NetworkSpec, options: SinkOptions) -> None:
        need("av", "video", str(path))
        self._network = network
        self._tasks = tuple(task.name for task in options.chosen(network))
        super().__init__(path, options)
        self._painter = Painter()
        self._ticks = -USUAL_TICKS
        self._stamp: int | None = None
        self._camera = ""
        self._size = (0, 0)
        self._stream: Any = None

    def _begin(self, part: Path, opened: contextlib.ExitStack) -> None:
        import av

        self._container = opened.enter_context(av.open(str(part), "w"))

    def _add(self, result: StreamResult) -> None:
        self._camera = self._camera or result.camera
        if result.camera != self._camera:
            raise OutputError(
                f"{self.path}: a video shows one camera, got results of {self._camera!r} and "
                f"{result.camera!r}; write a video for each"
            )
        picture = self._picture(result)
        if self._stream is None:
            height, width = picture.shape[:2]
            self._size = (height // 2 * 2 or 2, width // 2 * 2 or 2)  # as the colours need it
            self._stream = self._new_stream()
        self._encode(_resized(picture, *self._size), self._time(result.stamp_ns))

    def _finish(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())

    def _new_stream(self) -> Any:
        import av
        from av.video.reformatter import Colorspace

        for name, options in ENCODERS.items():
            if name not in av.codecs_available:
                continue
            stream: Any = self._container.add_stream(name, rate=30, options=options)
            stream.height, stream.width = self._size
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS)
            stream.codec_context.colorspace = Colorspace.ITU709
            return stream
        raise OutputError(f"{self.path}: this PyAV has no encoder of {', '.join(ENCODERS)}")

    def _encode(self, picture: np.ndarray, ticks: int) -> None:
        import av
        from av.video.reformatter import Colorspace

        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def _time(self, stamp_ns: int | None) -> int:
        """The time of a frame in the video, in ticks."""
        pause_ns = 0 if stamp_ns is None or self._stamp is None else stamp_ns - self._stamp
        step = USUAL_TICKS
        if 0 < pause_ns <= LONGEST_PAUSE_NS:
            step = max(1, round(pause_ns * TICKS / 10**9))
        self._stamp = stamp_ns
        self._ticks += step
        return self._ticks

    def _picture(self, result: StreamResult) -> np.ndarray:
        pixels = pixels_of(result.frame, self._network)
        shown = [name for name in self._tasks if name in result.maps]
        if len(self._tasks) == 1:
            if not shown:
                return pixels
            task_map = result.maps[shown[0]]
            limit = self._painter.limit(result.camera, task_map)
            picture = task_map.overlay(pixels, ALPHA, limit=limit)
            _write_name(picture, _title(result, shown[0]))
            return picture
        cells = [_Cell("image", pixels)]
        for name in self._tasks:
            if name in result.maps:
                task_map = result.maps[name]
                colours = self._painter.colour(result.camera, task_map)
                cells.append(_Cell(_title(result, name), colours, task_map.spec.has_labels))
            else:
                cells.append(_Cell(f"{name}: has not run yet", np.zeros((1, 1, 3), np.uint8)))
        return _grid(cells, pixels.shape[1] / pixels.shape[0])


class _Cell(NamedTuple):
    """One picture of a grid."""

    name: str
    picture: np.ndarray
    has_labels: bool = False


def _title(result: StreamResult, name: str) -> str:
    age = result.frames_old[name]
    return name if not age else f"{name}, {age} frame{'s'[: age > 1]} old"


def _grid(cells: Sequence[_Cell], aspect: float) -> np.ndarray:
    """Pictures side by side, all of one size, with their names.

    Args:
        cells: What is shown, row by row.
        aspect: Width by height of a cell.
    """
    count = len(cells)
    columns = min(
        range(1, count + 1),
        key=lambda n: abs(math.log(n * aspect / math.ceil(count / n) / ASPECT)),
    )
    own = max(cell.picture.shape[1] for cell in cells)
    width = min(max(own, math.ceil(NARROWEST / columns)), WIDEST // columns)
    height = max(1, round(width / aspect))
    canvas = np.zeros((math.ceil(count / columns) * height, columns * width, 3), np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * height, index % columns * width
        part = canvas[top : top + height, left : left + width]
        part[:] = _resized(cell.picture, height, width, keeps_colours=cell.has_labels)
        _write_name(part, cell.name)
    return canvas


def _write_name(picture: np.ndarray, name: str) -> None:
    """Write a name into the upper left corner of a picture."""
    strip = picture[:LABEL_HEIGHT]
    label = PIL.Image.fromarray(strip)
    draw = PIL.ImageDraw.Draw(label)
    font = PIL.ImageFont.load_default(size=0.6 * LABEL_HEIGHT)
    right = draw.textbbox((6, 3), name, font=font)[2]
    draw.rectangle((0, 0, right + 6, LABEL_HEIGHT), fill=(0, 0, 0))
    draw.text((6, 3), name, fill=(255, 255, 255), font=font)
    strip[:] = np.asarray(label)


def _resized(
    picture: np.ndarray, height: int, width: int, *, keeps_colours: bool = False
) -> np.ndarray:
    """The picture at another size; where colours stand for classes, none is mixed."""
    if picture.shape[:2] == (height, width):
        return picture
    how = PIL.Image.Resampling.NEAREST if keeps_colours else PIL.Image.Resampling.BILINEAR
    return np.array(PIL.Image.fromarray(picture).resize((width, height), how))
