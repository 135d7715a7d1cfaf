"""Video files, through PyAV."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from degmix_edge.capture._av import check_target, to_array
from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._checks import is_path, need, only
from degmix_edge.capture._replay import ReplayClock
from degmix_edge.errors import SourceError

EXPECTED = "a video file (.mp4, .mkv, .avi, ...)"
ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mjpeg", ".mjpg", ".y4m", ".h264", ".h265", ".hevc", ".gif"),
)


def recognises(text: str) -> bool:
    """Return whether a text is the path of a video, by its ending."""
    return is_path(text) and text.lower().endswith(ENDINGS)


def open_source(text: str, options: SourceOptions) -> Source:
    """Return the first video stream of a file."""
    only(options, text, "size", "format", "replay", "loop")
    return VideoSource(text, options)


class VideoSource(Source):
    """A source that decodes a file, at its own speed or as fast as frames are taken.

    Stamps are times since the video's own start; where the file begins again, so do they. Packets
    that cannot be decoded count as lost. A machine that decodes slower than the video plays gets
    every frame, later and later, and after a second the replay goes on from there.

    Args:
        path: The file.
        options: `size`, `format`, `replay` and `loop`.
    """

    def __init__(self, path: str, options: SourceOptions) -> None:
        self.name, self.options = path, options
        self.is_live = options.replay == "timed"
        self._format = check_target(options.format, path)
        self._container: Any = None
        self._frames: Iterator[tuple[Any, int]] = iter(())
        self._clock = ReplayClock()
        self._index = 0

    def open(self) -> None:
        """Open the file and find its video.

        Raises:
            SourceError: There is no such file, it has no video that FFmpeg can read, or its frames
                cannot have the format.
            ConfigError: PyAV is not installed.
        """
        need("av", "video", self.name)
        self.close()
        self._clock, self._index = ReplayClock(), 0
        self._begin()
        frames = self._decoded()
        try:
            first = next(frames)
            to_array(first[0], self._format, self.options.size, self.name)
        except BaseException:
            self.close()
            raise
        self._frames = itertools.chain([first], frames)

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Return the next frame."""
        frame, lost = next(self._frames, (None, 0))
        if frame is None or stop.is_set():
            return None
        # Converted first, so that it is there when it is due.
        image = to_array(frame, self._format, self.options.size, self.name)
        stamp = due = None
        if frame.pts is not None and frame.time_base:
            stamp = int(frame.pts * frame.time_base * 10**9)
        if self.is_live and stamp is not None:
            due = self._clock.wait(stamp, stop)
            if due is None:
                return None
        index, self._index = self._index, self._index + 1
        return CapturedFrame(
            image,
            time.monotonic_ns(),
            due,
            stamp,
            "unknown" if stamp is None else "video",
            index=index,
            lost=lost,
            format=self._format,
        )

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def _begin(self) -> None:
        import av

        if not Path(self.name).is_file():
            raise SourceError(f"{self.name}: no such file")
        try:
            self._container = av.open(self.name)
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self.name}: this video cannot be read: {error.strerror}"
            ) from error
        if not self._container.streams.video:
            self.close()
            raise SourceError(f"{self.name}: there is no video in this file")

    def _decoded(self) -> Iterator[tuple[Any, int]]:
        """Frames, each with how many packets before it could not be decoded."""
        import av

        while True:
            stream = self._container.streams.video[0]
            stream.thread_type = "AUTO"
            lost, has_frames = 0, False
            try:
                for packet in self._container.demux(stream):
                    try:
                        frames = packet.decode()
                    except av.error.InvalidDataError:
                        lost += 1
                        continue
                    for frame in frames:
                        yield frame, lost
                        lost, has_frames = 0, True
            except av.error.FFmpegError as error:
                raise SourceError(f"{self.name}: {error.strerror}") from error
            if not has_frames:
                raise SourceError(f"{self.name}: no frame of this video can be decoded")
            if not self.options.loop:
                return
            self._container.close()
            self._begin()
