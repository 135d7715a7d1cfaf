"""Cameras and streams of a network: RTSP, HTTP, UDP and what else FFmpeg opens by its address."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from io import BufferedReader

import numpy as np

from degmix_edge.capture._av import check_target
from degmix_edge.capture._base import CapturedFrame, SourceOptions
from degmix_edge.capture._checks import need, only
from degmix_edge.capture._child import ChildSource
from degmix_edge.capture._decoder import HEADER

EXPECTED = "the URL of a network camera (rtsp://, http://, udp://, ...)"
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "rtp", "srt")
_SCHEME = re.compile(rf"({'|'.join(SCHEMES)})://")
_LOGIN = re.compile(r"//[^/]*@")


def recognises(text: str) -> bool:
    """Return whether a text is an address of a stream."""
    return _SCHEME.match(text) is not None


def open_source(text: str, options: SourceOptions) -> NetworkSource:
    """Return the first video stream at an address."""
    only(options, _without_login(text), "size", "format")
    return NetworkSource(text, options)


class NetworkSource(ChildSource):
    """A source that decodes a network stream in a process of its own, with the least delay.

    The newest frame wins, in that process and here, and both count in `skipped`. Frames that were
    damaged on the way, or cannot be decoded, are lost. How long a frame was on its way is unknown,
    so the time of capture is too, and stamps are the times of receipt. Ten seconds without a first
    frame, or five without a next one, are a `SourceError`. So is the end of a stream, unless it is
    a recording with a duration.

    Args:
        url: The address; a login in it appears in no message and in no list of processes.
        options: `size`, to scale to, and `format`.
    """

    def __init__(self, url: str, options: SourceOptions) -> None:
        super().__init__(_without_login(url))
        self._url, self._size = url, options.size
        self._format = check_target(options.format, self.name)

    def open(self) -> None:
        """Start the process that decodes.

        Raises:
            SourceError: The address cannot be opened, where that is known within a second.
            ConfigError: PyAV is not installed.
        """
        need("av", "video", self.name)
        super().open()

    def _command(self, pipe: int) -> tuple[list[str], bytes]:
        task = {"url": self._url, "pipe": pipe, "format": self._format, "size": self._size}
        places = os.pathsep.join(path for path in sys.path if path)
        program = [sys.executable, "-m", "degmix_edge.capture._decoder"]
        return ["env", f"PYTHONPATH={places}", *program], json.dumps(task).encode() + b"\n"

    def _why(self, code: int) -> str:
        return super()._why(code).replace(self._url, self.name)

    def _receive(self, pipe: BufferedReader) -> CapturedFrame | None:
        header = pipe.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        rows, columns, depth, lost, skipped = HEADER.unpack(header)
        image = np.empty((rows, columns, depth) if depth else (rows, columns), np.uint8)
        if pipe.readinto(image.reshape(-1).data) < image.size:
            return None
        self.skipped += skipped
        now, stamp = time.monotonic_ns(), time.time_ns()
        return CapturedFrame(image, now, None, stamp, "receive", lost=lost, format=self._format)


def _without_login(url: str) -> str:
    return _LOGIN.sub("//", url, count=1)
