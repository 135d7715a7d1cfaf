"""Devices of V4L2, and what the cameras behind them offer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.capture import _v4l2_abi as abi
from degmix_edge.errors import SourceError

LAYOUTS = {
    **{"NV12": "nv12", "YUYV": "yuyv", "UYVY": "uyvy", "BGR3": "bgr", "RGB3": "rgb"},
    **{"MJPG": "mjpeg", "JPEG": "mjpeg", "RGGB": "bayer_rggb", "BA81": "bayer_bggr"},
    **{"GBRG": "bayer_gbrg", "GRBG": "bayer_grbg", "GREY": "grey"},
}
"""The pixel formats that are read, by their four letters, the ones to take first in front."""
GONE = (errno.ENODEV, errno.ENXIO, errno.EIO)
"""Errors of a device that is there no more."""


@dataclass(frozen=True)
class CameraMode:
    """What a camera offers.

    Attributes:
        fourcc: The pixel format's four letters.
        size: Height and width in pixels; where all sizes down to `smallest` are possible, the
            largest.
        smallest: The smallest height and width, of a camera that scales.
        rates_hz: Frames a second that it offers, the highest first; empty is unknown.
    """

    fourcc: str
    size: tuple[int, int]
    smallest: tuple[int, int] | None = None
    rates_hz: tuple[float, ...] = ()

    @property
    def layout(self) -> str | None:
        """Name of the pixel format; None is one that is not read."""
        return LAYOUTS.get(self.fourcc)

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether the camera gives frames of this size in this mode."""
        if self.smallest is None:
            return size == self.size
        limits = zip(self.smallest, size, self.size, strict=True)
        return all(low <= side <= high for low, side, high in limits)

    def __str__(self) -> str:
        """Write a mode as `YUYV 640x480 at 30, 15 Hz`."""
        rates = ", ".join(f"{rate:.4g}" for rate in self.rates_hz)
        return f"{self.fourcc} {self.size[1]}x{self.size[0]}" + (f" at {rates} Hz" if rates else "")


@dataclass(frozen=True)
class Camera:
    """A camera of this machine: its device, what it calls itself, and its modes."""

    path: str
    name: str
    modes: tuple[CameraMode, ...]


class Device:
    """The kernel's side of a camera. A test puts another class in its place."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ioctl(self, request: int, argument: Any) -> None:
        """Make one request; an `OSError` says why it is refused."""
        fcntl.ioctl(self._file, request, argument)

    def map(self, length: int, offset: int) -> mmap.mmap:
        """Return the memory of a buffer."""
        return mmap.mmap(self._file, length, offset=offset)

    def wait(self, seconds: float) -> int:
        """Wait for a frame or an event and return the flags of `select.poll`; 0 is neither."""
        poll = select.poll()
        poll.register(self._file, select.POLLIN | select.POLLPRI)
        return next((flags for _, flags in poll.poll(seconds * 1000)), 0)

    def close(self) -> None:
        """Close the device."""
        os.close(self._file)


def list_cameras(device: type[Device] = Device) -> list[Camera]:
    """Return the cameras of this machine that can be opened, with their modes."""
    cameras = []
    for path in sorted(Path("/dev").glob("video*"), key=lambda path: (len(path.name), path.name)):
        with contextlib.suppress(OSError, SourceError):
            opened = device(str(path))
            try:
                name = camera_name(opened, str(path))
                cameras.append(Camera(str(path), name, tuple(camera_modes(opened))))
            finally:
                opened.close()
    return cameras


def camera_name(device: Device, path: str) -> str:
    """What a camera calls itself.

    Raises:
        SourceError: The device is no camera, or one that is not read here.
    """
    capability = abi.Capability()
    try:
        device.ioctl(abi.QUERYCAP, capability)
    except OSError as error:
        if error.errno in GONE:
            raise
        raise SourceError(f"{path}: is no camera ({error.strerror})") from error
    has = capability.capabilities
    has = capability.device_caps if has & abi.CAP_DEVICE_CAPS else has
    if has & abi.CAP_CAPTURE_MPLANE:
        raise SourceError(
            f"{path}: has planes of its own for each colour; read it through GStreamer, as in "
            f"'gst:v4l2src device={path}', or 'gst:libcamerasrc'"
        )
    if not has & abi.CAP_CAPTURE or not has & abi.CAP_STREAMING:
        raise SourceError(f"{path}: gives no frames; its camera may have another device")
    name: str = capability.card.decode(errors="replace")
    return name


def camera_modes(device: Device) -> Iterator[CameraMode]:
    """Everything that a camera offers, also what is not read."""
    for description in _listing(device, abi.ENUM_FMT, abi.FmtDesc, type=abi.CAPTURE):
        code = description.pixelformat
        for size in _listing(device, abi.ENUM_FRAMESIZES, abi.FrameSize, pixel_format=code):
            values = size.values
            is_one = size.type == abi.DISCRETE
            largest = (values[1], values[0]) if is_one else (values[4], values[1])
            smallest = None if is_one else (values[3], values[0])
            # A camera that scales may have other rates at every size.
            rates = sorted(_rates(device, code, largest), reverse=True) if is_one else ()
            yield CameraMode(letters(code), largest, smallest, tuple(rates))


def _rates(device: Device, code: int, size: tuple[int, int]) -> Iterator[float]:
    fields = {"pixel_format": code, "height": size[0], "width": size[1]}
    for one in _listing(device, abi.ENUM_FRAMEINTERVALS, abi.FrameInterval, **fields):
        ends = one.values[:1] if one.type == abi.DISCRETE else one.values[:2]
        yield from (end.denominator / end.numerator for end in ends if end.numerator)


def _listing(device: Device, request: int, structure: Any, **fields: int) -> Iterator[Any]:
    """Every entry of one of the driver's lists; one without the list has no entries."""
    for index in range(1000):
        entry = structure(index=index, **fields)
        try:
            device.ioctl(request, entry)
        except OSError as error:
            if error.errno in GONE:
                raise
            return
        yield entry
        if structure is not abi.FmtDesc and entry.type != abi.DISCRETE:
            return  # it is a range


def letters(code: int) -> str:
    """Return the four letters of a pixel format."""
    return code.to_bytes(4, "little").decode("ascii", "replace").rstrip()


def listed(modes: list[CameraMode]) -> str:
    """Return modes as a message lists them."""
    return "; ".join(map(str, modes)) or "nothing"


def have(device: type[Device]) -> str:
    """Return the cameras of this machine as a message lists them."""
    return ", ".join(f"{camera.path} ({camera.name})" for camera in list_cameras(device)) or "none"
