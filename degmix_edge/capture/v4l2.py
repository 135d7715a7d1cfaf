"""Cameras of Linux, through V4L2 itself: its buffers carry the kernel's stamps.

Neither FFmpeg nor OpenCV hands those stamps on, and without them nobody knows a frame's age.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import mmap
import re
import select
import threading
import time
import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import PIL.Image

from degmix_edge.camera import FrameFormat
from degmix_edge.capture import _v4l2_abi as abi
from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._checks import only
from degmix_edge.capture._formats import to_known, unpack
from degmix_edge.capture._v4l2_device import (
    GONE,
    LAYOUTS,
    Camera,
    CameraMode,
    Device,
    camera_modes,
    camera_name,
    have,
    letters,
    list_cameras,
    listed,
)
from degmix_edge.errors import DegmixWarning, SourceError

__all__ = ["Camera", "CameraMode", "CameraSource", "Device", "list_cameras"]
EXPECTED = "a camera (/dev/video0, or its number)"
NUM_BUFFERS = 4
STALL_S = 5.0
USUAL_HZ = 30.0
"""A camera that reaches this rate in an uncompressed format is not asked for JPEGs."""
_SLICE_S = 0.1
_OLDEST_NS = 10_000_000_000
_ORDER = list(dict.fromkeys(LAYOUTS.values()))


def recognises(text: str) -> bool:
    """Return whether a text is a device or a camera's number."""
    return re.fullmatch(r"\d+|/dev/.+", text) is not None


def open_source(text: str, options: SourceOptions) -> CameraSource:
    """Return the camera of this device or number."""
    only(options, text, "size", "rate_hz", "format")
    return CameraSource(f"/dev/video{text}" if text.isdigit() else text, options)


class CameraSource(Source):
    """A camera of Linux, whose newest frame wins.

    The driver fills four buffers. A read takes all that are full, gives the newest frame, and
    counts the others in `skipped`. Where all four are full the driver has stopped, so the frames
    are old: they are skipped, and the next one is waited for. Gaps in the driver's own count, and
    damaged frames, are lost.

    Without options the camera keeps its size, and gives the format that a session takes with the
    least work among those that reach 30 frames a second.

    Args:
        path: The device.
        options: `size`, `rate_hz` and `format`.
        device: The kernel's side.

    Attributes:
        mode: What the camera was set to.
        skipped: Frames that were ready and not taken.
    """

    def __init__(self, path: str, options: SourceOptions, device: type[Device] = Device) -> None:
        self.name, self.options = path, options
        self.mode: CameraMode | None = None
        self.skipped = 0
        self._open = device
        self._device: Device | None = None
        self._buffers: list[mmap.mmap] = []
        self._step = self._index = self._lost = 0
        self._sequence: int | None = None
        self._has_warned = False

    def open(self) -> None:
        """Set the camera's format and start it.

        Raises:
            SourceError: There is no such camera, it is busy or belongs to others, or it does not
                offer what the options ask for.
        """
        self.close()
        with self._errors():
            device = self._device = self._open(self.name)
            try:
                camera_name(device, self.name)
                self.mode = self._set(self._choose(list(camera_modes(device))))
                self._start()
            except BaseException:
                self.close()
                raise

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Wait for a frame and return the newest."""
        deadline = time.monotonic() + STALL_S
        while not stop.is_set():
            with self._errors():
                frame = self._take()
            if frame is not None:
                return frame
            if time.monotonic() > deadline:
                raise SourceError(
                    f"{self.name}: no frame for {STALL_S:g} s; is its USB bus shared with another "
                    "camera?"
                )
        return None

    def close(self) -> None:
        """Stop the camera and give its buffers back."""
        device, self._device = self._device, None
        if device is None:
            return
        with contextlib.suppress(OSError):  # it may be gone
            device.ioctl(abi.STREAMOFF, ctypes.c_int32(abi.CAPTURE))
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []
        device.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reasons = {
                errno.ENOENT: f"no such camera; have {have(self._open)}",
                errno.EBUSY: f"is busy: another program uses it, see `fuser -v {self.name}`",
                errno.EACCES: "may not be opened: add the user to the group `video`",
                errno.ENOTTY: "is no camera",
                **dict.fromkeys(GONE, "does not answer; it was unplugged or has crashed"),
            }
            reason = reasons.get(error.errno or 0, error.strerror)
            raise SourceError(f"{self.name}: {reason}") from error

    def _choose(self, modes: list[CameraMode]) -> CameraMode:
        """The mode that fits the options, with the size and the rate to ask for."""
        options = self.options
        takes = {options.format} if options.format else set(_ORDER)
        takes |= {"mjpeg"} if options.format == "rgb" else set()
        known = [mode for mode in modes if mode.layout in takes]
        if not known:
            expected = options.format or f"one of {', '.join(LAYOUTS)}"
            raise SourceError(
                f"{self.name}: no format that is read; expected {expected}, the camera offers "
                f"{listed(modes)}; the sensor of a Jetson is read through GStreamer, as in "
                "'gst:nvarguscamerasrc ! nvvidconv ! video/x-raw,format=NV12'"
            )
        size = options.size or self._current_size(known)
        sized = [mode for mode in known if mode.fits(size)]
        rate = options.rate_hz or USUAL_HZ
        quick = [mode for mode in sized if max(mode.rates_hz, default=rate) >= 0.99 * rate]
        if not sized or (options.rate_hz and not quick):
            asked = f"{size[1]}x{size[0]}" + (f" at {rate:g} Hz" if sized else "")
            raise SourceError(
                f"{self.name}: does not offer {asked}; the camera offers {listed(known)}"
            )
        best = max(max(mode.rates_hz, default=0) for mode in sized)
        quick = quick or [mode for mode in sized if max(mode.rates_hz) == best]
        first = min(quick, key=lambda mode: _ORDER.index(mode.layout or ""))
        return CameraMode(first.fourcc, size)

    def _current_size(self, modes: list[CameraMode]) -> tuple[int, int]:
        assert self._device is not None
        now = abi.Format(type=abi.CAPTURE)
        self._device.ioctl(abi.G_FMT, now)
        size = now.fmt.pix.height, now.fmt.pix.width
        return size if any(mode.fits(size) for mode in modes) else modes[0].size

    def _set(self, mode: CameraMode) -> CameraMode:
        """Ask the driver for a mode and return what it has set."""
        assert self._device is not None
        now = abi.Format(type=abi.CAPTURE)
        pix = now.fmt.pix
        pix.height, pix.width = mode.size
        pix.pixelformat, pix.field = abi.fourcc(mode.fourcc), abi.FIELD_ANY
        self._device.ioctl(abi.S_FMT, now)
        if (pix.height, pix.width) != mode.size or pix.pixelformat != abi.fourcc(mode.fourcc):
            raise SourceError(
                f"{self.name}: was asked for {mode} and is set to {pix.width}x{pix.height} "
                f"{letters(pix.pixelformat)}"
            )
        self._step = pix.bytesperline
        rate = self._set_rate()
        return CameraMode(mode.fourcc, mode.size, rates_hz=(rate,) if rate else ())

    def _set_rate(self) -> float | None:
        assert self._device is not None
        parm, asked = abi.StreamParm(type=abi.CAPTURE), self.options.rate_hz
        interval = parm.parm.capture.timeperframe
        try:
            self._device.ioctl(abi.G_PARM, parm)
            if asked and parm.parm.capture.capability & abi.CAP_TIMEPERFRAME:
                period = (1 / Fraction(asked)).limit_denominator(1_000_000)
                interval.numerator, interval.denominator = period.numerator, period.denominator
                self._device.ioctl(abi.S_PARM, parm)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            return None  # the driver knows no rates
        rate: float = interval.denominator / interval.numerator if interval.numerator else 0
        if asked and rate and rate < 0.99 * asked:
            raise SourceError(
                f"{self.name}: was asked for {asked:g} Hz and is set to {rate:.4g} Hz"
            )
        return rate or None

    def _start(self) -> None:
        device = self._device
        assert device is not None
        with contextlib.suppress(OSError):  # few drivers have this event, for changing inputs
            device.ioctl(abi.SUBSCRIBE_EVENT, abi.EventSubscription(type=abi.EVENT_SOURCE_CHANGE))
        request = abi.RequestBuffers(count=NUM_BUFFERS, type=abi.CAPTURE, memory=abi.MMAP)
        device.ioctl(abi.REQBUFS, request)
        for index in range(request.count):
            buffer = abi.Buffer(index=index, type=abi.CAPTURE, memory=abi.MMAP)
            device.ioctl(abi.QUERYBUF, buffer)
            self._buffers.append(device.map(buffer.length, buffer.m.offset))
            device.ioctl(abi.QBUF, buffer)
        device.ioctl(abi.STREAMON, ctypes.c_int32(abi.CAPTURE))
        self._sequence, self._index, self._lost = None, 0, 0

    def _take(self) -> CapturedFrame | None:
        """The newest frame, if one comes within a slice of time."""
        device = self._device
        if device is None:
            raise SourceError(f"{self.name}: is closed")
        flags = device.wait(_SLICE_S)
        if flags & select.POLLPRI:
            device.ioctl(abi.DQEVENT, abi.Event())
            raise SourceError(f"{self.name}: its input changed format or size in flight")
        ready = list(self._ready(device)) if flags else []
        if flags & select.POLLERR and not ready:
            raise SourceError(f"{self.name}: the driver has stopped")
        if len(ready) == len(self._buffers) > 1:
            self.skipped += len(ready)
            self._give_back(device, ready)
            return None
        frame = None
        while ready and frame is None:
            frame = self._frame(ready[-1])
            self._give_back(device, [ready.pop()])
        self.skipped += len(ready)
        self._give_back(device, ready)
        return frame

    def _ready(self, device: Device) -> Iterator[abi.Buffer]:
        """Every buffer that is full, the oldest first."""
        for _ in self._buffers:
            buffer = abi.Buffer(type=abi.CAPTURE, memory=abi.MMAP)
            try:
                device.ioctl(abi.DQBUF, buffer)
            except BlockingIOError:
                return
            if self._sequence is not None:
                gap = (buffer.sequence - self._sequence - 1) % 2**32
                self._lost += gap if gap < 2**31 else 0  # some drivers never count
            self._sequence = buffer.sequence
            yield buffer

    def _give_back(self, device: Device, buffers: list[abi.Buffer]) -> None:
        for buffer in buffers:
            device.ioctl(abi.QBUF, buffer)

    def _frame(self, buffer: abi.Buffer) -> CapturedFrame | None:
        """What a buffer holds; None is a damaged frame, which is lost."""
        now = time.monotonic_ns()
        content = None if buffer.flags & abi.FLAG_ERROR else self._image(buffer)
        if content is None:
            self._lost += 1
            return None
        captured, where = self._captured_ns(buffer, now), "receive"
        if captured is not None:
            is_start = buffer.flags & abi.FLAG_SOURCE_MASK == abi.FLAG_SOURCE_SOE
            where = f"driver, {'start of exposure' if is_start else 'end of frame'}"
        stamp = time.time_ns() - time.monotonic_ns() + (now if captured is None else captured)
        index, self._index = self._index, self._index + 1
        lost, self._lost = self._lost, 0
        image, kind = content
        return CapturedFrame(
            image, now, captured, stamp, where, index=index, lost=lost, format=kind
        )

    def _captured_ns(self, buffer: abi.Buffer, now: int) -> int | None:
        if buffer.flags & abi.FLAG_STAMP_MASK != abi.FLAG_STAMP_MONOTONIC:
            return None
        stamp: int = buffer.timestamp.tv_sec * 10**9 + buffer.timestamp.tv_usec * 1000
        if now - _OLDEST_NS < stamp <= now:
            return stamp
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self.name}: the driver's stamps are {(now - stamp) / 1e9:.3f} s before now, so "
                "they are of another clock; the age of frames is unknown",
                category=DegmixWarning,
                stacklevel=2,
            )
        return None

    def _image(self, buffer: abi.Buffer) -> tuple[np.ndarray, FrameFormat] | None:
        assert self.mode is not None
        layout, size = self.mode.layout or "", self.mode.size
        memory = self._buffers[buffer.index]
        if layout == "mjpeg":
            picture = self._decoded(memory[: buffer.bytesused])
            return None if picture is None else (picture, "rgb")
        # The buffer goes back to the driver, so its bytes are copied.
        used = np.frombuffer(memory[: buffer.bytesused or len(memory)], np.uint8)
        try:
            return to_known(unpack(used, layout, size, self._step, self.name), layout)
        except SourceError:
            return None

    def _decoded(self, data: bytes) -> np.ndarray | None:
        """A JPEG as RGB; None where it is damaged, as cameras' JPEGs sometimes are."""
        assert self.mode is not None
        try:
            with PIL.Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
                width, height = picture.size
                if (height, width) == self.mode.size:
                    return np.asarray(picture.convert("RGB"))
        except Exception:  # whatever a damaged JPEG makes Pillow raise
            return None
        raise SourceError(f"{self.name}: changed its size in flight, to {width}x{height}")
