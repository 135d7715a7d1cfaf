"""Structures and numbers of linux/videodev2.h that capturing with single planes needs.

tests/capture/test_v4l2.py compares them with the header, through a C compiler.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, Union, c_char, c_int32, c_long, c_uint8, c_uint32, c_uint64, c_ulong
from typing import Any

CAPTURE, MMAP, FIELD_ANY, DISCRETE = 1, 1, 0, 1
CAP_CAPTURE, CAP_CAPTURE_MPLANE, CAP_STREAMING = 0x1, 0x1000, 0x04000000
CAP_DEVICE_CAPS, CAP_TIMEPERFRAME = 0x80000000, 0x1000
FLAG_ERROR, FLAG_STAMP_MASK, FLAG_STAMP_MONOTONIC = 0x40, 0xE000, 0x2000
FLAG_SOURCE_MASK, FLAG_SOURCE_SOE = 0x70000, 0x10000
EVENT_SOURCE_CHANGE = 5


class Capability(Structure):
    """struct v4l2_capability."""

    _fields_ = (
        ("driver", c_char * 16),
        ("card", c_char * 32),
        ("bus_info", c_char * 32),
        ("version", c_uint32),
        ("capabilities", c_uint32),
        ("device_caps", c_uint32),
        ("reserved", c_uint32 * 3),
    )


class FmtDesc(Structure):
    """struct v4l2_fmtdesc."""

    _fields_ = (
        ("index", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("description", c_char * 32),
        ("pixelformat", c_uint32),
        ("mbus_code", c_uint32),
        ("reserved", c_uint32 * 3),
    )


class PixFormat(Structure):
    """struct v4l2_pix_format, up to what capturing needs."""

    _fields_ = (
        ("width", c_uint32),
        ("height", c_uint32),
        ("pixelformat", c_uint32),
        ("field", c_uint32),
        ("bytesperline", c_uint32),
        ("sizeimage", c_uint32),
    )


class _FormatUnion(Union):
    _fields_ = (("pix", PixFormat), ("raw", c_uint8 * 200), ("align", c_ulong))


class Format(Structure):
    """struct v4l2_format."""

    _fields_ = (("type", c_uint32), ("fmt", _FormatUnion))


class Fraction(Structure):
    """struct v4l2_fract."""

    _fields_ = (("numerator", c_uint32), ("denominator", c_uint32))


class FrameSize(Structure):
    """struct v4l2_frmsizeenum; `values` are width and height, or min, max and step of both."""

    _fields_ = (
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("type", c_uint32),
        ("values", c_uint32 * 6),
        ("reserved", c_uint32 * 2),
    )


class FrameInterval(Structure):
    """struct v4l2_frmivalenum; `values` is one interval, or the shortest, longest and step."""

    _fields_ = (
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("type", c_uint32),
        ("values", Fraction * 3),
        ("reserved", c_uint32 * 2),
    )


class RequestBuffers(Structure):
    """struct v4l2_requestbuffers."""

    _fields_ = (
        ("count", c_uint32),
        ("type", c_uint32),
        ("memory", c_uint32),
        ("capabilities", c_uint32),
        ("reserved", c_uint32),
    )


class _TimeVal(Structure):
    _fields_ = (("tv_sec", c_long), ("tv_usec", c_long))


class _TimeCode(Structure):
    _fields_ = (("type", c_uint32), ("flags", c_uint32), ("rest", c_uint8 * 8))


class _Memory(Union):
    _fields_ = (("offset", c_uint32), ("userptr", c_ulong), ("fd", c_int32))


class Buffer(Structure):
    """struct v4l2_buffer."""

    _fields_ = (
        ("index", c_uint32),
        ("type", c_uint32),
        ("bytesused", c_uint32),
        ("flags", c_uint32),
        ("field", c_uint32),
        ("timestamp", _TimeVal),
        ("timecode", _TimeCode),
        ("sequence", c_uint32),
        ("memory", c_uint32),
        ("m", _Memory),
        ("length", c_uint32),
        ("reserved2", c_uint32),
        ("request_fd", c_int32),
    )


class CaptureParm(Structure):
    """struct v4l2_captureparm, up to the rate."""

    _fields_ = (
        ("capability", c_uint32),
        ("capturemode", c_uint32),
        ("timeperframe", Fraction),
    )


class _ParmUnion(Union):
    _fields_ = (("capture", CaptureParm), ("raw", c_uint8 * 200))


class StreamParm(Structure):
    """struct v4l2_streamparm."""

    _fields_ = (("type", c_uint32), ("parm", _ParmUnion))


class EventSubscription(Structure):
    """struct v4l2_event_subscription."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("flags", c_uint32),
        ("reserved", c_uint32 * 5),
    )


class Event(Structure):
    """struct v4l2_event, whose union and time matter to nobody here."""

    _fields_ = (
        ("type", c_uint32),
        ("u", c_uint64 * 8),
        ("pending", c_uint32),
        ("sequence", c_uint32),
        ("timestamp", c_long * 2),
        ("id", c_uint32),
        ("reserved", c_uint32 * 8),
    )


def _request(direction: int, number: int, argument: Any) -> int:
    """Number an ioctl as asm-generic/ioctl.h does."""
    return direction << 30 | ctypes.sizeof(argument) << 16 | ord("V") << 8 | number


_WRITE, _READ = 1, 2
QUERYCAP = _request(_READ, 0, Capability)
ENUM_FMT = _request(_READ | _WRITE, 2, FmtDesc)
G_FMT = _request(_READ | _WRITE, 4, Format)
S_FMT = _request(_READ | _WRITE, 5, Format)
REQBUFS = _request(_READ | _WRITE, 8, RequestBuffers)
QUERYBUF = _request(_READ | _WRITE, 9, Buffer)
QBUF = _request(_READ | _WRITE, 15, Buffer)
DQBUF = _request(_READ | _WRITE, 17, Buffer)
STREAMON = _request(_WRITE, 18, c_int32)
STREAMOFF = _request(_WRITE, 19, c_int32)
G_PARM = _request(_READ | _WRITE, 21, StreamParm)
S_PARM = _request(_READ | _WRITE, 22, StreamParm)
ENUM_FRAMESIZES = _request(_READ | _WRITE, 74, FrameSize)
ENUM_FRAMEINTERVALS = _request(_READ | _WRITE, 75, FrameInterval)
DQEVENT = _request(_READ, 89, Event)
SUBSCRIBE_EVENT = _request(_WRITE, 90, EventSubscription)


def fourcc(text: str) -> int:
    """Return the number of a format's four letters."""
    return int.from_bytes(text.encode(), "little")
