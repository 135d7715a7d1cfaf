"""Cameras of Linux, against the kernel's header and a stand-in that answers as the kernel does."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import subprocess
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from recordings import nothing_left, numbered, rgb_of
from test_formats import mosaic_of
from v4l2_kernel import Kernel

from degmix_edge.capture import SourceOptions, _v4l2_abi, open_source, v4l2
from degmix_edge.capture.v4l2 import CameraMode, CameraSource, list_cameras
from degmix_edge.errors import ConfigError, SourceError

VGA, HD = (480, 640), (720, 1280)
SMALL = (48, 96)
WEBCAM = {
    ("YUYV", VGA): [30.0, 15.0],
    ("YUYV", HD): [10.0],
    ("MJPG", VGA): [30.0],
    ("MJPG", HD): [30.0, 60.0],
}
SOE = _v4l2_abi.FLAG_STAMP_MONOTONIC | _v4l2_abi.FLAG_SOURCE_SOE
PATH = "/dev/video0"


def camera(kernel: Kernel, **options) -> CameraSource:
    return CameraSource(PATH, SourceOptions(**options), device=kernel.device)


def opened(kernel: Kernel, **options) -> CameraSource:
    source = camera(kernel, **options)
    source.open()
    return source


def read(source: CameraSource):
    return source.read(threading.Event())


def small(fourcc: str, **more) -> Kernel:
    return Kernel({(fourcc, SMALL): [30.0]}, now=(fourcc, *SMALL), **more)


GREY = numbered(6)[..., 0]
JPEG = io.BytesIO()
PIL.Image.fromarray(numbered(6)).save(JPEG, "JPEG", quality=95)


# The header


STRUCTURES = {
    "Capability": ("v4l2_capability", "card capabilities device_caps"),
    "FmtDesc": ("v4l2_fmtdesc", "index type pixelformat"),
    "Format": ("v4l2_format", "type fmt.pix.width fmt.pix.height fmt.pix.pixelformat fmt.pix.field "
               "fmt.pix.bytesperline fmt.pix.sizeimage"),
    "FrameSize": ("v4l2_frmsizeenum", "index pixel_format type"),
    "FrameInterval": ("v4l2_frmivalenum", "index pixel_format width height type"),
    "RequestBuffers": ("v4l2_requestbuffers", "count type memory"),
    "Buffer": ("v4l2_buffer", "index type bytesused flags timestamp sequence memory m.offset "
               "length"),
    "StreamParm": ("v4l2_streamparm", "type parm.capture.capability parm.capture.timeperframe"),
    "EventSubscription": ("v4l2_event_subscription", "type"),
    "Event": ("v4l2_event", "type"),
}  # fmt: skip
NUMBERS = {
    **{name: f"VIDIOC_{name}" for name in vars(_v4l2_abi) if name.isupper() and name[0] != "_"},
    **{"CAPTURE": "V4L2_BUF_TYPE_VIDEO_CAPTURE", "MMAP": "V4L2_MEMORY_MMAP"},
    **{"FIELD_ANY": "V4L2_FIELD_ANY", "DISCRETE": "V4L2_FRMSIZE_TYPE_DISCRETE"},
    **{"CAP_CAPTURE": "V4L2_CAP_VIDEO_CAPTURE", "CAP_STREAMING": "V4L2_CAP_STREAMING"},
    **{"CAP_CAPTURE_MPLANE": "V4L2_CAP_VIDEO_CAPTURE_MPLANE"},
    **{"CAP_DEVICE_CAPS": "V4L2_CAP_DEVICE_CAPS", "CAP_TIMEPERFRAME": "V4L2_CAP_TIMEPERFRAME"},
    **{"FLAG_ERROR": "V4L2_BUF_FLAG_ERROR", "FLAG_STAMP_MASK": "V4L2_BUF_FLAG_TIMESTAMP_MASK"},
    **{"FLAG_STAMP_MONOTONIC": "V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC"},
    **{"FLAG_SOURCE_MASK": "V4L2_BUF_FLAG_TSTAMP_SRC_MASK"},
    **{"FLAG_SOURCE_SOE": "V4L2_BUF_FLAG_TSTAMP_SRC_SOE"},
    **{"EVENT_SOURCE_CHANGE": "V4L2_EVENT_SOURCE_CHANGE"},
}
FOURCCS = {
    **{"NV12": "NV12", "YUYV": "YUYV", "UYVY": "UYVY", "BGR3": "BGR24", "RGB3": "RGB24"},
    **{"MJPG": "MJPEG", "JPEG": "JPEG", "RGGB": "SRGGB8", "BA81": "SBGGR8", "GBRG": "SGBRG8"},
    **{"GRBG": "SGRBG8", "GREY": "GREY"},
}


def offset_of(structure: type, path: str) -> int:
    total = 0
    for name in path.split("."):
        total += getattr(structure, name).offset
        structure = dict(structure._fields_)[name]
    return total


@pytest.mark.skipif(
    not (shutil.which("gcc") and Path("/usr/include/linux/videodev2.h").exists()),
    reason="needs gcc and linux/videodev2.h",
)
def test_structures_and_numbers_are_those_of_the_header(tmp_path):
    expected = {}
    for name, (c_name, fields) in STRUCTURES.items():
        structure = getattr(_v4l2_abi, name)
        expected[f"sizeof(struct {c_name})"] = ctypes.sizeof(structure)
        for path in fields.split():
            expected[f"offsetof(struct {c_name}, {path})"] = offset_of(structure, path)
    expected |= {c_name: getattr(_v4l2_abi, name) for name, c_name in NUMBERS.items()}
    expected["offsetof(struct v4l2_frmsizeenum, stepwise)"] = _v4l2_abi.FrameSize.values.offset
    expected["offsetof(struct v4l2_frmsizeenum, discrete)"] = _v4l2_abi.FrameSize.values.offset
    expected["offsetof(struct v4l2_frmivalenum, stepwise)"] = _v4l2_abi.FrameInterval.values.offset
    for letters, name in FOURCCS.items():
        expected[f"V4L2_PIX_FMT_{name}"] = _v4l2_abi.fourcc(letters)
    assert set(FOURCCS) == set(v4l2.LAYOUTS)
    assert len(NUMBERS) > 30
    lines = "".join(f'printf("%llu\\n", (unsigned long long)({name}));\n' for name in expected)
    source = tmp_path / "numbers.c"
    source.write_text(
        "#include <linux/videodev2.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f"int main(void) {{\n{lines}return 0;\n}}\n"
    )
    subprocess.run(["gcc", "-o", tmp_path / "numbers", source], check=True)
    printed = subprocess.run([tmp_path / "numbers"], capture_output=True, check=True).stdout
    assert dict(zip(expected, map(int, printed.split()), strict=True)) == expected


# Real paths


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/null", "is no camera"),
        ("/dev/zero", "is no camera"),
        ("/dev/video97", "no such camera; have"),
        ("97", "/dev/video97: no such camera"),
    ],
)
def test_paths_that_are_no_camera_are_said(path: str, message: str):
    with nothing_left(), pytest.raises(SourceError, match=message):
        open_source(path).open()


def test_a_device_that_may_not_be_opened_names_the_group(tmp_path):
    for code, message in (
        (errno.EACCES, "add the user to the group `video`"),
        (errno.EBUSY, "is busy: another program uses it"),
        (errno.ENODEV, "was unplugged"),
        (errno.EMFILE, os.strerror(errno.EMFILE)),
    ):
        with pytest.raises(SourceError, match=f"{PATH}: .*{message}"):
            opened(Kernel(WEBCAM, refuses_open=code))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="loop True: this kind of source takes size, rate_hz"):
        open_source(PATH, SourceOptions(loop=True))


# Choosing a mode


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("YUYV", VGA, 30)),
        ({"size": HD}, ("MJPG", HD, 30)),  # the uncompressed one is too slow
        ({"size": HD, "rate_hz": 10}, ("YUYV", HD, 10)),
        ({"size": HD, "rate_hz": 60}, ("MJPG", HD, 60)),
        ({"rate_hz": 15}, ("YUYV", VGA, 15)),
        ({"format": "rgb"}, ("MJPG", VGA, 30)),
        ({"format": "yuyv", "size": HD}, ("YUYV", HD, 10)),
    ],
)
def test_the_mode_is_the_first_that_is_fast_enough(options, expected):
    kernel = Kernel(WEBCAM)
    source = opened(kernel, **options)
    fourcc, size, rate = expected
    assert kernel.now == (fourcc, *size)
    assert kernel.rate == rate
    if fourcc == "YUYV" or "rate_hz" in options:
        assert source.mode == CameraMode(fourcc, size, rates_hz=(rate,))
    source.close()


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (Kernel(WEBCAM), {"size": (1, 2)}, "does not offer 2x1; the camera offers YUYV 640x480 at"),
        (Kernel(WEBCAM), {"rate_hz": 31}, "does not offer 640x480 at 31 Hz"),
        (Kernel(WEBCAM), {"format": "nv12"}, "no format that is read; expected nv12"),
        (Kernel({("RG10", HD): []}), {}, "offers RG10 1280x720; .*nvarguscamerasrc"),
        (Kernel({}), {}, "the camera offers nothing"),
        (Kernel(WEBCAM, is_busy=True), {}, "is busy"),
        (Kernel(WEBCAM, is_unplugged=True), {}, "was unplugged"),
        (
            Kernel(WEBCAM, capabilities=_v4l2_abi.CAP_CAPTURE_MPLANE),
            {},
            "gst:v4l2src device=/dev/video0",
        ),
        (Kernel(WEBCAM, capabilities=0x00A00000), {}, "gives no frames"),
    ],
)
def test_what_a_camera_does_not_offer_is_said(kernel: Kernel, options, message: str):
    with nothing_left(), pytest.raises(SourceError, match=message):
        opened(kernel, **options)
    assert kernel.num_open == 0


def test_a_driver_without_rates_is_taken_as_it_is():
    kernel = Kernel({("YUYV", VGA): []}, knows_rates=False)
    source = opened(kernel)
    assert source.mode == CameraMode("YUYV", VGA)
    source.close()


def test_a_camera_that_scales_takes_any_size_between():
    kernel = Kernel({("YUYV", (1080, 1920)): [30.0]}, scales=True)
    device = kernel.device(PATH)
    (one,) = list(v4l2.camera_modes(device))
    device.close()
    assert one == CameraMode("YUYV", (1080, 1920), smallest=(16, 16))
    assert one.fits((480, 640))
    assert not one.fits((480, 14))
    assert not one.fits((1200, 1600))
    for size in ((200, 320), (1080, 1920)):
        source = opened(kernel, size=size, rate_hz=30)
        assert kernel.now == ("YUYV", *size)
        source.close()
    with pytest.raises(SourceError, match="is set to 320x200 YUYV"):
        opened(kernel, size=(201, 320))
    with pytest.raises(SourceError, match="was asked for 60 Hz and is set to 30 Hz"):
        opened(kernel, size=(200, 320), rate_hz=60)


def test_cameras_are_listed_with_their_modes(monkeypatch):
    paths = [Path(f"/dev/video{number}") for number in (10, 2, 1)]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: paths)
    kernel = Kernel(WEBCAM)
    cameras = list_cameras(kernel.device)
    assert [one.path for one in cameras] == ["/dev/video1", "/dev/video2", "/dev/video10"]
    assert cameras[0].name == "Stand-in Camera"
    assert [str(mode) for mode in cameras[0].modes] == [
        "YUYV 640x480 at 30, 15 Hz",
        "YUYV 1280x720 at 10 Hz",
        "MJPG 640x480 at 30 Hz",
        "MJPG 1280x720 at 60, 30 Hz",
    ]
    assert kernel.num_open == 0
    assert list_cameras(Kernel(WEBCAM, refuses_open=errno.EBUSY).device) == []
    with pytest.raises(SourceError, match=r"have /dev/video1 \(Stand-in Camera\), /dev/video2"):
        CameraSource(PATH, SourceOptions(), device=absent_but(kernel)).open()


def absent_but(kernel: Kernel) -> type:
    class Other(kernel.device):
        def __init__(self, path: str) -> None:
            if path == PATH:
                raise FileNotFoundError(errno.ENOENT, "none")
            super().__init__(path)

    return Other


# Frames


YUV = np.random.default_rng(3).integers(0, 256, (*SMALL, 2), np.uint8)
BGR = numbered(6)[..., ::-1]


@pytest.mark.parametrize("padding", [0, 32])
@pytest.mark.parametrize(
    ("fourcc", "array", "format"),
    [
        ("YUYV", YUV, "yuyv"),
        ("NV12", YUV.reshape(-1, SMALL[1])[: SMALL[0] * 3 // 2], "nv12"),
        ("BGR3", BGR, "bgr"),
        ("RGB3", numbered(6), "rgb"),
    ],
)
def test_frames_arrive_as_the_driver_wrote_them(fourcc: str, array, format: str, padding: int):
    kernel = small(fourcc, padding=padding)
    source = opened(kernel)
    rows = np.ascontiguousarray(array).reshape(array.shape[0], -1)
    kernel.produce(np.pad(rows, ((0, 0), (0, padding))).tobytes())
    frame = read(source)
    kernel.produce(b"\0" * kernel.length)  # the driver writes into its buffers again
    kernel.produce(b"\0" * kernel.length)
    np.testing.assert_array_equal(frame.image, array)
    assert frame.format == format
    source.close()


def test_formats_that_a_session_does_not_take_become_others():
    for fourcc, array, expected in (
        ("UYVY", np.ascontiguousarray(YUV[..., ::-1]), None),
        ("GREY", GREY, GREY[..., None].repeat(3, axis=2)),
        ("RGGB", mosaic_of(numbered(6), "bayer_rggb"), None),
    ):
        kernel = small(fourcc)
        source = opened(kernel)
        kernel.produce(array.tobytes())
        rgb = rgb_of(read(source))
        source.close()
        assert rgb.shape == (*SMALL, 3)
        if expected is not None:
            np.testing.assert_array_equal(rgb, expected)
    np.testing.assert_array_equal(rgb[30:46, 4:40], numbered(6)[30:46, 4:40])


def without_tables(jpeg: bytes) -> bytes:
    """The JPEG as webcams send it: the Huffman tables are the standard's, and left out."""
    out, place = jpeg[:2], 2
    while jpeg[place + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if jpeg[place + 1] != 0xC4:
            out += jpeg[place : place + length]
        place += length
    return out + jpeg[place:]


def test_jpegs_are_decoded_also_without_tables():
    kernel = small("MJPG")
    source = opened(kernel)
    for data in (JPEG.getvalue(), without_tables(JPEG.getvalue()), JPEG.getvalue() + b"\0" * 99):
        kernel.produce(data)
        frame = read(source)
        assert frame.format == "rgb"
        assert np.abs(frame.image[40, [20, 70]].astype(int) - numbered(6)[40, [20, 70]]).max() < 12
    source.close()


# Stamps


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (_v4l2_abi.FLAG_STAMP_MONOTONIC, "driver, end of frame"),
        (SOE, "driver, start of exposure"),
    ],
)
def test_stamps_are_the_drivers(flags: int, where: str):
    kernel = small("GREY")
    source = opened(kernel)
    before = time.monotonic_ns()
    kernel.produce(GREY.tobytes(), age_ns=7_000_000, flags=flags)
    frame = read(source)
    assert frame.stamp_source == where
    assert -8_000_000 <= frame.captured_ns - before <= frame.received_ns - before
    assert frame.received_ns - frame.captured_ns >= 7_000_000
    wall = time.time_ns() - time.monotonic_ns()
    assert abs(frame.stamp_ns - frame.captured_ns - wall) < 10**9
    source.close()


@pytest.mark.parametrize("flags", [0, 0x4000])
def test_stamps_of_no_clock_are_unknown(flags: int):
    kernel = small("GREY")
    source = opened(kernel)
    kernel.produce(GREY.tobytes(), flags=flags)
    frame = read(source)
    assert (frame.captured_ns, frame.stamp_source) == (None, "receive")
    assert abs(frame.stamp_ns - time.time_ns()) < 60 * 10**9
    source.close()


@pytest.mark.parametrize("age_s", [3600, -5])
def test_stamps_of_another_clock_are_unknown(age_s: int):
    """Drivers of Jetsons have been seen to stamp by the counter of their own chip."""
    kernel = small("GREY")
    source = opened(kernel)
    kernel.produce(GREY.tobytes(), age_ns=age_s * 10**9)
    with pytest.warns(UserWarning, match="another clock"):
        frame = read(source)
    assert (frame.captured_ns, frame.stamp_source) == (None, "receive")
    kernel.produce(GREY.tobytes(), age_ns=age_s * 10**9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(source).captured_ns is None
    source.close()


# Newest wins


def value(frame) -> int:
    return int(frame.image[0, 0, 0])


def produce(kernel: Kernel, *values: int, **more) -> None:
    for one in values:
        kernel.produce(bytes([one]) * kernel.length, **more)


def test_the_newest_frame_wins_and_nothing_is_lost():
    kernel = small("GREY")
    source = opened(kernel)
    produce(kernel, 1)
    assert value(read(source)) == 1
    produce(kernel, 2, 3, 4)
    frame = read(source)
    assert (value(frame), frame.lost, source.skipped, frame.index) == (4, 0, 2, 1)
    assert sorted(kernel.queued) == [0, 1, 2, 3]
    source.close()


def test_frames_of_full_buffers_are_old_and_skipped():
    kernel = small("GREY")
    source, stop = opened(kernel), threading.Event()
    produce(kernel, *range(1, 10))  # the driver has had no buffer since the fourth
    threading.Timer(0.1, produce, (kernel, 77)).start()
    frame = source.read(stop)
    assert (value(frame), frame.lost, source.skipped) == (77, 5, 4)
    source.close()


def test_what_the_driver_lost_is_counted():
    kernel = small("GREY")
    source = opened(kernel)
    kernel.sequence = 2**32 - 2
    produce(kernel, 1)
    assert read(source).lost == 0  # the first number is where the count begins
    kernel.sequence = (kernel.sequence + 3) % 2**32
    produce(kernel, 2)
    assert read(source).lost == 3
    kernel.sequence = 0  # a driver that never counts
    produce(kernel, 3)
    assert read(source).lost == 0
    source.close()


def test_damaged_frames_are_lost():
    kernel = small("GREY")
    source = opened(kernel)
    produce(kernel, 1)
    assert value(read(source)) == 1
    produce(kernel, 2, flags=_v4l2_abi.FLAG_ERROR)
    kernel.produce(b"\3" * (kernel.length - 1))
    threading.Timer(0.1, produce, (kernel, 4)).start()
    frame = read(source)
    assert (value(frame), frame.lost) == (4, 2)
    produce(kernel, 5)
    produce(kernel, 6, flags=_v4l2_abi.FLAG_ERROR)
    frame = read(source)  # the one before the damaged frame is good
    assert (value(frame), frame.lost) == (5, 1)
    source.close()
    jpegs = small("MJPG")
    source = opened(jpegs)
    jpegs.produce(JPEG.getvalue()[:400])
    jpegs.produce(b"no jpeg")
    threading.Timer(0.1, jpegs.produce, (JPEG.getvalue(),)).start()
    assert read(source).lost == 2
    source.close()


# Trouble in flight


def test_unplugging_in_flight_is_said_and_it_may_be_plugged_in_again():
    kernel = small("GREY")
    with nothing_left():
        source = opened(kernel)
        produce(kernel, 1)
        assert value(read(source)) == 1
        kernel.is_unplugged = True
        with pytest.raises(SourceError, match="was unplugged"):
            read(source)
        source.close()
        source.close()
        with pytest.raises(SourceError, match="was unplugged"):
            source.open()
        kernel.is_unplugged = False
        source.open()
        produce(kernel, 2)
        frame = read(source)
        assert (value(frame), frame.index, frame.lost) == (2, 0, 0)
        source.close()
    assert kernel.num_open == 0
    with pytest.raises(SourceError, match="is closed"):
        read(source)


def test_a_change_of_format_or_size_in_flight_is_said():
    kernel = small("GREY")
    source = opened(kernel)
    kernel.has_event = True
    with pytest.raises(SourceError, match="changed format or size in flight"):
        read(source)
    source.close()
    kernel = small("MJPG")
    source = opened(kernel)
    other = io.BytesIO()
    PIL.Image.fromarray(numbered(1, (24, 48))).save(other, "JPEG")
    kernel.produce(other.getvalue())
    with pytest.raises(SourceError, match="changed its size in flight, to 48x24"):
        read(source)
    source.close()


def test_a_driver_that_stops_is_said(monkeypatch):
    kernel = small("GREY")
    source = opened(kernel)
    kernel.is_on = False
    with pytest.raises(SourceError, match=PATH):
        read(source)
    kernel.is_on = True
    monkeypatch.setattr(v4l2, "STALL_S", 0.1)
    with pytest.raises(SourceError, match="no frame for 0.1 s"):
        read(source)
    source.close()


@pytest.mark.parametrize("most_buffers", [1, 2, 3])
def test_few_buffers_are_enough(most_buffers: int):
    kernel = small("GREY", most_buffers=most_buffers)
    source = opened(kernel)
    for number in range(5):
        produce(kernel, number)
        assert value(read(source)) == number
    source.close()


def test_a_read_ends_with_stop():
    source, stop = opened(small("GREY")), threading.Event()
    threading.Timer(0.05, stop.set).start()
    begin = time.monotonic()
    assert source.read(stop) is None
    assert time.monotonic() - begin < 1
    source.close()
