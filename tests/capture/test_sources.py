"""What holds of every kind of source."""

from __future__ import annotations

import threading

import pytest

from degmix_edge import registry
from degmix_edge.capture import PACKAGE, SourceOptions, open_source
from degmix_edge.errors import DegmixError, SourceError

TEXTS = {
    "bag": ["a.mcap", "dir/B.MCAP", "a.db3", "a.bag"],
    "gstreamer": ["gst:videotestsrc", "gst:filesrc location=a.mp4", "gst:filesrc location=a.bag"],
    "images": [".", "*.png", "shots/frame?.jpg", "a.jpg", "shots/[0-9]*"],
    "rtsp": ["rtsp://h/a", "http://h/a.mp4", "https://h/a.png", "udp://@:5000", "rtp://h/a.mcap"],
    "synthetic": ["synthetic", "synthetic:640x480@30", "synthetic:@5"],
    "v4l2": ["0", "12", "/dev/video0", "/dev/v4l/by-id/usb-camera"],
    "video": ["a.mp4", "dir/A.MKV", "./with:colon.avi"],
}
CASES = [(kind, text) for kind, texts in TEXTS.items() for text in texts]


def test_every_kind_has_texts():
    assert sorted(TEXTS) == registry.names(PACKAGE)


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_one_kind_takes_each_text(kind: str, text: str):
    modules = dict(registry.modules(PACKAGE))
    assert [name for name, module in modules.items() if module.recognises(text)] == [kind]


@pytest.mark.parametrize("text", ["", "nothing", "a.txt", "ftp://h/a", "640x480", "-1"])
def test_other_texts_are_refused_with_what_is_expected(text: str):
    with pytest.raises(SourceError) as caught:
        open_source(text)
    for _, module in registry.modules(PACKAGE):
        assert module.EXPECTED in str(caught.value)


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_source_that_is_not_open_says_so_or_has_ended(kind: str, text: str):
    source = open_source(text)
    source.close()
    assert isinstance(source.is_live, bool)
    if kind in ("bag", "images", "video"):
        assert source.read(threading.Event()) is None
    else:
        with pytest.raises(SourceError, match="is closed"):
            source.read(threading.Event())


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_source_is_live_unless_it_is_a_recording_read_fast(kind: str, text: str):
    assert open_source(text).is_live == (kind != "images")
    if kind in ("bag", "images", "synthetic", "video"):
        assert not open_source(text, SourceOptions(replay="fast")).is_live
    else:
        with pytest.raises(DegmixError, match="replay 'fast': this kind of source takes"):
            open_source(text, SourceOptions(replay="fast"))
