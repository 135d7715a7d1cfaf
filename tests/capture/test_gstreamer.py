"""Pipelines of GStreamer: their pixels, the newest frame, their errors, and nothing left behind."""

from __future__ import annotations

import itertools
import shutil
import threading
import time

import numpy as np
import PIL.Image
import psutil
import pytest
from recordings import nothing_left, number_of, numbered, rgb_of

from degmix_edge.capture import SourceOptions, _child, gstreamer, open_source
from degmix_edge.errors import ConfigError, SourceError

pytestmark = [
    pytest.mark.slow(file_seconds=10),
    pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="needs gst-launch-1.0"),
]
TEST = "videotestsrc is-live=true ! video/x-raw,width={},height={},framerate=30/1"


def read(source):
    return source.read(threading.Event())


@pytest.mark.parametrize(
    ("format", "size"),
    [
        *itertools.product([None, "bgr", "nv12", "yuyv"], [(48, 64), (46, 62)]),
        *itertools.product([None, "bgr"], [(31, 45)]),
    ],
)
def test_pixels_arrive_whatever_rows_gstreamer_pads(format: str | None, size):
    pattern = "videotestsrc pattern=solid-color foreground-color=0xFFC8283C is-live=true"
    caps = f"video/x-raw,format=RGB,width={size[1]},height={size[0]}"
    with nothing_left():
        source = open_source(f"gst:{pattern} ! {caps}", SourceOptions(format=format))
        source.open()
        frame = read(source)
        source.close()
    assert source.is_live
    assert frame.format == (format or "rgb")
    rgb = rgb_of(frame)
    assert rgb.shape == (*size, 3)
    error = np.abs(rgb.astype(int) - (0xC8, 0x28, 0x3C)).max()
    assert error <= (0 if format in (None, "bgr") else 3)
    assert (frame.captured_ns, frame.stamp_source, frame.index) == (None, "receive", 0)


def test_the_newest_frame_wins_and_the_others_are_counted(tmp_path):
    for number in range(200):
        PIL.Image.fromarray(numbered(number)).save(tmp_path / f"{number}.png")
    files = f"multifilesrc location={tmp_path}/%d.png caps=image/png,framerate=50/1 stop-index=199"
    source = open_source(f"gst:{files} ! pngdec ! identity sync=true")
    with nothing_left():
        for _ in range(2):  # it may be opened again
            source.open()
            first = read(source)
            skipped = source.skipped
            time.sleep(1)
            second = read(source)
            gap = number_of(second.image) - number_of(first.image) - 1
            assert source.skipped - skipped == gap
            assert gap > 20
            assert second.index == 1
            source.close()
            source.close()


def test_a_pipeline_that_ends_is_the_end_and_appsink_is_ours():
    source = open_source("gst:videotestsrc num-buffers=5 ! appsink drop=true max-buffers=1")
    with nothing_left():
        source.open()
        count = 0
        while read(source) is not None:
            count += 1
        assert 1 <= count <= 5
        assert read(source) is None
        source.close()


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("v4l2src device=/dev/video97", "gst: v4l2src.*Cannot identify device '/dev/video97'"),
        ("nosuchelement ! videoconvert", 'no element "nosuchelement"'),
        ("", "syntax error"),
        ("videotestsrc ! 'video/x-raw", "No closing quotation"),
        ("audiotestsrc", "erroneous pipeline: could not link"),
        ("filesrc location=/nonexistent ! decodebin", "not found|No such file"),
    ],
)
def test_pipelines_that_do_not_run_are_said(pipeline: str, message: str):
    source = open_source(f"gst:{pipeline}")
    with nothing_left():
        with pytest.raises(SourceError, match=message):  # noqa: PT012
            source.open()
            read(source)
        source.close()


def test_a_pipeline_that_gives_nothing_holds_up_nobody(monkeypatch):
    source = open_source("gst:udpsrc port=0 ! rawvideoparse width=8 height=8")
    stop = threading.Event()
    with nothing_left():
        source.open()
        threading.Timer(0.1, stop.set).start()
        begin = time.monotonic()
        assert source.read(stop) is None
        assert time.monotonic() - begin < 1
        begin = time.monotonic()
        source.close()
        assert time.monotonic() - begin < 2
        monkeypatch.setattr(_child, "FIRST_S", 0.3)
        source.open()
        with pytest.raises(SourceError, match="no frame for 0.3 s"):
            read(source)
        source.close()


def test_a_child_that_does_not_answer_is_killed():
    source = open_source(f"gst:{TEST.format(64, 48)}")
    others = set(psutil.Process().children())
    with nothing_left():
        source.open()
        read(source)
        (child,) = set(psutil.Process().children()) - others
        child.suspend()  # it takes no signal but the last
        begin = time.monotonic()
        source.close()
        assert time.monotonic() - begin < 2


def test_a_size_that_changes_in_flight_is_said(tmp_path):
    for number in range(60):
        picture = numbered(1, (48, 96) if number < 30 else (60, 100))
        PIL.Image.fromarray(picture).save(tmp_path / f"{number}.png")
    files = f"multifilesrc location={tmp_path}/%d.png caps=image/png,framerate=30/1 stop-index=59"
    source = open_source(f"gst:{files} ! pngdec ! identity sync=true")
    with nothing_left():
        source.open()
        assert read(source).image.shape == (48, 96, 3)
        with pytest.raises(SourceError, match="changed its size in flight; it was 96x48"):  # noqa: PT012
            while True:
                frame = read(source)
                assert frame is not None
                assert frame.image.shape == (48, 96, 3)
        source.close()


def test_what_is_missing_and_what_does_not_fit_is_said(monkeypatch):
    for more, message in (
        ({"size": (48, 64)}, "gst: size .48, 64.: this kind of source takes format"),
        ({"rate_hz": 30}, "gst: rate_hz 30"),
        ({"format": "jpeg"}, "gst: format 'jpeg', expected one of rgb, bgr"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_source("gst:videotestsrc", SourceOptions(**more))
    monkeypatch.setattr(gstreamer.shutil, "which", lambda name: None)
    with nothing_left(), pytest.raises(SourceError, match="apt install gstreamer1.0-tools"):
        open_source("gst:videotestsrc").open()
