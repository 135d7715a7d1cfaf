"""Pipelines of GStreamer, which run in a `gst-launch-1.0` of their own.

No Python binding is needed, and a plugin that crashes or hangs takes nothing with it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import threading
import time
from typing import IO

import numpy as np

from degmix_edge.camera import check_format
from degmix_edge.capture._base import CapturedFrame, SourceOptions
from degmix_edge.capture._checks import only
from degmix_edge.capture._child import ChildSource, read_into
from degmix_edge.capture._formats import unpack
from degmix_edge.errors import ConfigError, SourceError

EXPECTED = "`gst:PIPELINE`, a pipeline of GStreamer that ends in raw video"
PIXELS = {"rgb": "RGB", "bgr": "BGR", "nv12": "NV12", "yuyv": "YUY2"}
PIXELS |= {"grey": "GRAY8", "uyvy": "UYVY"}
"""GStreamer's name of each format that the pipeline's video can be converted to."""
_PREFIX, _SINK = "gst:", "degmix"
_APPSINK = re.compile(r"!\s*appsink\b[^!]*$")
_CAPS = re.compile(rf"GstFdSink:{_SINK}\.GstPad:sink: caps = video/x-raw, (.*)")
_LEAKY = "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
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
        self._size = None
        caps = f"video/x-raw,format={PIXELS[self._format]}"
        end = f"! {_LEAKY} ! videoconvert ! {caps} ! fdsink name={_SINK} sync=false fd={pipe}"
        return [program, "-v", *own, *end.split()], b""

    def _hear(self, line: str) -> None:
        match = _CAPS.search(line)
        if match is None:
            if not line.startswith("/"):  # `-v` prints every property that changes
                super()._hear(line)
            return
        sides = (re.search(rf"\b{side}=\(int\)(\d+)", match[1]) for side in ("height", "width"))
        height, width = (int(side[1]) if side else 0 for side in sides)
        if self._size not in (None, (height, width)):
            self._error = f"the video changed its size in flight, to {width}x{height}"
        self._size = height, width
        self._caps.set()

    def _why(self, code: int) -> str:
        errors = [line for line in self._lines if line.startswith(("ERROR", "WARNING: erroneous"))]
        return errors[0] if errors else super()._why(code)

    def _receive(self, pipe: IO[bytes]) -> CapturedFrame | None:
        size = self._size
        if size is None:
            # The first byte comes after the caps; where there is no first byte, there is no frame.
            first = pipe.read(1)
            if not first:
                return None
            if not self._caps.wait(_CAPS_S) or self._size is None:
                raise SourceError("gst-launch-1.0 did not print the size of its video")
            size = self._size
            data = np.empty(_num_bytes(self._format, size), np.uint8)
            data[0] = first[0]
            is_whole = read_into(pipe, data[1:])
        else:
            data = np.empty(_num_bytes(self._format, size), np.uint8)
            is_whole = read_into(pipe, data)
        if not is_whole:
            return None
        if self._error is not None:
            raise SourceError(self._error)
        now, stamp = time.monotonic_ns(), time.time_ns()
        image = _unpadded(data, self._format, size, self.name)
        return CapturedFrame(image, now, None, stamp, "receive", format=self._format)


def _step(kind: str, width: int) -> int:
    """GStreamer pads rows to four bytes."""
    return -(-width * _BYTES.get(kind, 1) // 4) * 4


def _num_bytes(kind: str, size: tuple[int, int]) -> int:
    height = -(-size[0] // 2) * 3 if kind == "nv12" else size[0]
    return _step(kind, size[1]) * height


def _unpadded(data: np.ndarray, kind: str, size: tuple[int, int], name: str) -> np.ndarray:
    return unpack(data, kind, size, _step(kind, size[1]), name)
