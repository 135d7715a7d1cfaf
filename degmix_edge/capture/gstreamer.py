"""Pipelines of GStreamer, which run in a `gst-launch-1.0` of their own.

No Python binding is needed, and a plugin that crashes or hangs takes nothing with it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import threading
import time
from io import BufferedReader

import numpy as np

from degmix_edge.camera import check_format
from degmix_edge.capture._base import CapturedFrame, SourceOptions
from degmix_edge.capture._checks import only
from degmix_edge.capture._child import ChildSource
from degmix_edge.capture._formats import unpack
from degmix_edge.errors import ConfigError, SourceError

EXPECTED = "`gst:PIPELINE`, a pipeline of GStreamer that ends in raw video"
PIXELS = {"rgb": "RGB", "bgr": "BGR", "nv12": "NV12", "yuyv": "YUY2"}
PIXELS |= {"grey": "GRAY8", "uyvy": "UYVY"}
"""GStreamer's name of each format that the pipeline's video can be converted to."""
_PREFIX, _MUX, _QUEUE = "gst:", "degmix", "degmixqueue"
_APPSINK = re.compile(r"!\s*appsink\b[^!]*$")
# The size of the video is printed at both ends of our part. GStreamer sometimes prints nothing of
# what is behind a queue: two threads then tell of their first caps at the same moment.
_PADS = rf"(?:{_QUEUE}\.GstPad:sink|{_MUX}\.GstPad:sink_0)"
_CAPS = re.compile(rf":{_PADS}: caps = video/x-raw, (.*)")
_LEAKY = f"queue name={_QUEUE} leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
_BYTES = {"rgb": 3, "bgr": 3, "yuyv": 2, "uyvy": 2}
_CAPS_S = 5.0


def recognises(text: str) -> bool:
    """Return whether a text names a pipeline."""
    return text.startswith(_PREFIX)


def open_source(text: str, options: SourceOptions) -> GStreamerSource:
    """Return the pipeline's video; its size and rate are the pipeline's own affair."""
    only(options, "gst", "format")
    if options.format is not None and options.format not in PIXELS:
        expected = ", ".join(PIXELS)
        raise ConfigError(f"gst: format {options.format!r}, expected one of {expected}")
    return GStreamerSource(text.removeprefix(_PREFIX), options.format or "rgb")


class GStreamerSource(ChildSource):
    """A source that runs a pipeline as `appsink max-buffers=1 drop=true sync=false` would.

    A leaky queue of one buffer is added at the end, so that the pipeline never waits for its
    consumer and gives the newest frame. An `appsink` at the end of the text is replaced, because
    pipelines written for OpenCV have one. Nothing tells how old a frame is when it arrives, so the
    time of capture is unknown, and stamps are the times of receipt.

    Args:
        pipeline: As for `gst-launch-1.0`, without a sink.
        format: What the frames become, by `videoconvert`.
    """

    def __init__(self, pipeline: str, format: str = "rgb") -> None:
        super().__init__(f"gst: {pipeline}")
        self.pipeline = _APPSINK.sub("", pipeline).rstrip(" !")
        self._format = check_format(format)
        self._caps = threading.Event()
        self._size: tuple[int, int] | None = None
        self._failure: str | None = None

    def _command(self, pipe: int) -> tuple[list[str], bytes]:
        program = shutil.which("gst-launch-1.0")
        if program is None:
            raise SourceError(
                "gst: gst-launch-1.0 is not installed: apt install gstreamer1.0-tools "
                "gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
            )
        try:
            own = shlex.split(self.pipeline)
        except ValueError as error:
            raise SourceError(f"{self.name}: {error}") from error
        self._caps.clear()
        self._size = self._failure = None
        caps = f"video/x-raw,format={PIXELS[self._format]}"
        # The muxer writes the length of every frame in front of it.
        sink = f"multipartmux name={_MUX} ! fdsink sync=false fd={pipe}"
        end = f"! {_LEAKY} ! videoconvert ! {caps} ! {sink}"
        return [program, "-v", *own, *end.split()], b""

    def _hear(self, line: str) -> None:
        match = _CAPS.search(line)
        if match is None:
            if not line.startswith("/"):  # `-v` prints every property that changes
                super()._hear(line)
            if self._failure is None and line.startswith(("ERROR", "WARNING: erroneous")):
                self._failure = line  # those that follow are its consequences
            return
        sides = (re.search(rf"\b{side}=\(int\)(\d+)", match[1]) for side in ("height", "width"))
        height, width = (int(side[1]) if side else 0 for side in sides)
        if self._size is None:
            self._size = height, width
        elif self._size != (height, width):
            self._error = _changed(self._size)
        self._caps.set()

    def _why(self, code: int) -> str:
        return self._failure or super()._why(code)

    def _receive(self, pipe: BufferedReader) -> CapturedFrame | None:
        length = None
        while (line := pipe.readline()) != b"\r\n" or length is None:
            if not line:
                return None
            if line.startswith(b"Content-Length:"):
                length = int(line.split()[1])
        if not self._caps.wait(_CAPS_S) or self._size is None:
            raise SourceError("gst-launch-1.0 did not print the size of its video")
        # It does not print every change.
        if length != _num_bytes(self._format, self._size):
            raise SourceError(_changed(self._size))
        data = np.empty(length, np.uint8)
        if pipe.readinto(data.data) < length:
            return None
        if self._error is not None:
            raise SourceError(self._error)
        now, stamp = time.monotonic_ns(), time.time_ns()
        step = _step(self._format, self._size[1])
        image = unpack(data, self._format, self._size, step, self.name)
        return CapturedFrame(image, now, None, stamp, "receive", format=self._format)


def _changed(size: tuple[int, int]) -> str:
    return f"the video changed its size in flight; it was {size[1]}x{size[0]}"


def _step(kind: str, width: int) -> int:
    """GStreamer pads rows to four bytes."""
    return -(-width * _BYTES.get(kind, 1) // 4) * 4


def _num_bytes(kind: str, size: tuple[int, int]) -> int:
    height = -(-size[0] // 2) * 3 if kind == "nv12" else size[0]
    return _step(kind, size[1]) * height
