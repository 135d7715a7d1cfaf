"""A camera as the kernel shows it: what each request answers and refuses, and buffers in memory.

It follows the documentation of the Video for Linux API and videobuf2: requests of a driver without
a list fail with ENOTTY, entries past its end with EINVAL, a queue without frames with EAGAIN, a
camera that belongs to another file with EBUSY, and one that was unplugged with ENODEV.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import time
from dataclasses import dataclass, field

from degmix_edge.capture import _v4l2_abi as abi
from degmix_edge.capture.v4l2 import Device

STEPWISE = 3
SIZES = {"YUYV": 2, "UYVY": 2, "NV12": 1.5, "BGR3": 3, "RGB3": 3, "GREY": 1, "RGGB": 1, "Y16 ": 2}


def refuse(code: int) -> None:
    raise OSError(code, os.strerror(code))


@dataclass
class Kernel:
    """One camera.

    Attributes:
        modes: Rates in hertz by format and size (height, width).
        now: Format, height and width that it is set to.
        padding: Bytes at the end of each row.
        capabilities: Flags of QUERYCAP.
        most_buffers: What REQBUFS gives at most.
        knows_rates: Whether the driver has G_PARM.
        scales: Whether sizes are a range, down to 16 pixels.
    """

    modes: dict[tuple[str, tuple[int, int]], list[float]]
    now: tuple[str, int, int] = ("YUYV", 480, 640)
    padding: int = 0
    capabilities: int = abi.CAP_CAPTURE | abi.CAP_STREAMING
    most_buffers: int = 32
    knows_rates: bool = True
    scales: bool = False
    is_busy: bool = False
    is_unplugged: bool = False
    refuses_open: int = 0
    rate: float = 30.0
    has_event: bool = False
    num_open: int = 0
    sequence: int = 0
    is_on: bool = False
    queued: list[int] = field(default_factory=list)
    done: list[tuple] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    count: int = 0

    @property
    def length(self) -> int:
        fourcc, height, width = self.now
        if fourcc in ("MJPG", "JPEG"):
            return height * width * 2
        rows = height * 3 // 2 if fourcc == "NV12" else height
        return rows * self.step

    @property
    def step(self) -> int:
        fourcc, _, width = self.now
        depth = 1 if fourcc == "NV12" else SIZES.get(fourcc, 0)
        return int(width * depth) + self.padding

    @property
    def room(self) -> int:
        return -(-self.length // mmap.PAGESIZE) * mmap.PAGESIZE

    def produce(self, content: bytes, age_ns: int = 0, flags: int = abi.FLAG_STAMP_MONOTONIC):
        """The sensor has a frame; without a buffer in the queue it is lost."""
        number, self.sequence = self.sequence, self.sequence + 1
        if self.is_on and self.queued:
            index = self.queued.pop(0)
            os.pwrite(self.memory, content, index * self.room)
            stamp = time.monotonic_ns() - age_ns
            self.done.append((index, len(content), flags, stamp, number))

    @property
    def device(self) -> type[Device]:
        kernel = self

        class Opened(Device):
            def __init__(self, path: str) -> None:
                if kernel.refuses_open:
                    refuse(kernel.refuses_open)
                if kernel.is_unplugged:
                    refuse(errno.ENODEV)
                kernel.num_open += 1
                self._file = os.memfd_create("frames")
                self.maps: list[mmap.mmap] = []
                kernel.memory = self._file

            def ioctl(self, request: int, argument) -> None:
                assert request >> 16 & 0x3FFF == ctypes.sizeof(argument)
                if kernel.is_unplugged:
                    refuse(errno.ENODEV)
                name = NAMES.get(request)
                if name is None:
                    refuse(errno.ENOTTY)
                getattr(kernel, f"on_{name}")(argument)

            def map(self, length: int, offset: int) -> mmap.mmap:
                self.maps.append(super().map(length, offset))
                return self.maps[-1]

            def wait(self, seconds: float) -> int:
                if kernel.is_unplugged:
                    return select.POLLERR | select.POLLHUP | select.POLLPRI
                flags = select.POLLPRI if kernel.has_event else 0
                flags |= 0 if kernel.is_on else select.POLLERR
                flags |= select.POLLIN if kernel.done else 0
                if not flags:
                    time.sleep(min(seconds, 0.01))
                return flags

            def close(self) -> None:
                super().close()
                assert all(one.closed for one in self.maps)
                kernel.num_open -= 1
                kernel.is_on, kernel.count = False, 0
                kernel.queued, kernel.done, kernel.taken = [], [], set()

        return Opened

    def on_querycap(self, cap) -> None:
        cap.card, cap.driver = b"Stand-in Camera", b"uvcvideo"
        cap.capabilities = self.capabilities | abi.CAP_DEVICE_CAPS
        cap.device_caps = self.capabilities

    def fourccs(self) -> list[str]:
        return list(dict.fromkeys(fourcc for fourcc, _ in self.modes))

    def on_enum_fmt(self, entry) -> None:
        if entry.type != abi.CAPTURE or entry.index >= len(self.fourccs()):
            refuse(errno.EINVAL)
        entry.pixelformat = abi.fourcc(self.fourccs()[entry.index])

    def on_sizes(self, entry) -> None:
        sizes = [s for f, s in self.modes if abi.fourcc(f) == entry.pixel_format]
        if entry.index >= len(sizes):
            refuse(errno.EINVAL)
        height, width = sizes[entry.index]
        if self.scales:
            entry.type, entry.values = STEPWISE, (16, width, 2, 16, height, 2)
        else:
            entry.type, entry.values = abi.DISCRETE, (width, height)

    def on_intervals(self, entry) -> None:
        rates = [
            rate
            for (fourcc, size), rates in self.modes.items()
            for rate in rates
            if abi.fourcc(fourcc) == entry.pixel_format and size == (entry.height, entry.width)
        ]
        if entry.index >= len(rates):
            refuse(errno.EINVAL)
        entry.type = abi.DISCRETE
        one = entry.values[0]
        one.numerator, one.denominator = 1000, round(1000 * rates[entry.index])

    def on_g_fmt(self, format) -> None:
        fourcc, height, width = self.now
        pix = format.fmt.pix
        pix.pixelformat, pix.height, pix.width = abi.fourcc(fourcc), height, width
        pix.bytesperline, pix.sizeimage = self.step, self.length

    def on_s_fmt(self, format) -> None:
        if self.is_busy or self.count:
            refuse(errno.EBUSY)
        pix = format.fmt.pix
        known = {abi.fourcc(fourcc): fourcc for fourcc in self.fourccs()}
        fourcc = known.get(pix.pixelformat, self.fourccs()[0])
        sizes = [size for f, size in self.modes if f == fourcc]
        size = min(sizes, key=lambda s: abs(s[0] - pix.height) + abs(s[1] - pix.width))
        offered = self.modes[fourcc, size] or [self.rate]
        if self.scales:
            size = min(size[0], pix.height // 2 * 2), min(size[1], pix.width // 2 * 2)
        self.now = fourcc, *size
        self.rate = self.rate if self.rate in offered else offered[0]
        self.on_g_fmt(format)

    def on_g_parm(self, parm) -> None:
        if not self.knows_rates:
            refuse(errno.ENOTTY)
        capture = parm.parm.capture
        capture.capability = abi.CAP_TIMEPERFRAME
        capture.timeperframe.numerator = 1000
        capture.timeperframe.denominator = round(1000 * self.rate)

    def on_s_parm(self, parm) -> None:
        interval = parm.parm.capture.timeperframe
        asked = interval.denominator / interval.numerator
        fourcc, *size = self.now
        offered = self.modes.get((fourcc, tuple(size))) or [self.rate]
        self.rate = min(offered, key=lambda rate: abs(rate - asked))
        self.on_g_parm(parm)

    def on_reqbufs(self, request) -> None:
        if self.is_busy:
            refuse(errno.EBUSY)
        self.count = request.count = min(request.count, self.most_buffers)
        os.ftruncate(self.memory, self.count * self.room)

    def on_querybuf(self, buffer) -> None:
        if buffer.index >= self.count:
            refuse(errno.EINVAL)
        buffer.length, buffer.m.offset = self.length, buffer.index * self.room

    def on_qbuf(self, buffer) -> None:
        if buffer.index >= self.count or buffer.index in self.queued:
            refuse(errno.EINVAL)
        self.taken.discard(buffer.index)
        self.queued.append(buffer.index)

    def on_dqbuf(self, buffer) -> None:
        if not self.is_on:
            refuse(errno.EINVAL)
        if not self.done:
            refuse(errno.EAGAIN)
        buffer.index, buffer.bytesused, buffer.flags, stamp, buffer.sequence = self.done.pop(0)
        buffer.timestamp.tv_sec, rest = divmod(stamp, 10**9)
        buffer.timestamp.tv_usec = rest // 1000
        buffer.length = self.length
        self.taken.add(buffer.index)

    def on_streamon(self, kind) -> None:
        assert kind.value == abi.CAPTURE
        self.is_on = True

    def on_streamoff(self, kind) -> None:
        self.is_on, self.queued, self.done = False, [], []

    def on_subscribe_event(self, subscription) -> None:
        assert subscription.type == abi.EVENT_SOURCE_CHANGE

    def on_dqevent(self, event) -> None:
        event.type, self.has_event = abi.EVENT_SOURCE_CHANGE, False


NAMES = {
    **{abi.QUERYCAP: "querycap", abi.ENUM_FMT: "enum_fmt", abi.ENUM_FRAMESIZES: "sizes"},
    **{abi.ENUM_FRAMEINTERVALS: "intervals", abi.G_FMT: "g_fmt", abi.S_FMT: "s_fmt"},
    **{abi.G_PARM: "g_parm", abi.S_PARM: "s_parm", abi.REQBUFS: "reqbufs"},
    **{abi.QUERYBUF: "querybuf", abi.QBUF: "qbuf", abi.DQBUF: "dqbuf"},
    **{abi.STREAMON: "streamon", abi.STREAMOFF: "streamoff"},
    **{abi.SUBSCRIBE_EVENT: "subscribe_event", abi.DQEVENT: "dqevent"},
}
