"""Video files: every frame, its colours and its time, and files that are none."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from recordings import (
    HEIGHT,
    WIDTH,
    colours_of,
    nothing_left,
    number_of,
    numbered,
    read_all,
    rgb_of,
    write_video,
)

from degmix_edge.capture import SourceOptions, open_source
from degmix_edge.errors import ConfigError, SourceError

av = pytest.importorskip("av")
FAST = SourceOptions(replay="fast")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "A.MOV"])
def test_every_frame_arrives_once_in_order(tmp_path, name: str):
    write_video(tmp_path / name, codec="mpeg4" if name == "a.avi" else "libx264")
    source = open_source(str(tmp_path / name), FAST)
    assert not source.is_live
    with nothing_left():
        for _ in range(2):
            source.open()
            frames = read_all(source)
            source.close()
            source.close()
            assert [number_of(frame.image) for frame in frames] == list(range(20))
    gaps = np.diff([frame.stamp_ns for frame in frames])
    assert np.abs(gaps - 1e9 / 30).max() < 2e6  # Matroska counts milliseconds
    assert {(f.captured_ns, f.stamp_source, f.lost) for f in frames} == {(None, "video", 0)}
    assert [frame.index for frame in frames] == list(range(20))


@pytest.mark.parametrize("format", ["rgb", "bgr", "nv12", "yuyv"])
@pytest.mark.parametrize("size", [None, (24, 64)])
@pytest.mark.parametrize("standard", ["bt601", "bt709"])
def test_colours_survive_every_format_and_standard(tmp_path, format: str, size, standard: str):
    path = tmp_path / "a.mkv"
    from av.video.reformatter import ColorRange, Colorspace

    space = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709}[standard]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = ColorRange.MPEG
        frame = av.VideoFrame.from_ndarray(numbered(7), format="rgb24")
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=space, dst_color_range=ColorRange.MPEG
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    source = open_source(str(path), SourceOptions(size=size, format=format, replay="fast"))
    source.open()
    (frame,) = read_all(source)
    source.close()
    rgb = rgb_of(frame)
    assert frame.format == format
    assert rgb.shape == (*(size or (HEIGHT, WIDTH)), 3)
    assert number_of(rgb) == 7
    assert np.abs(colours_of(rgb) - colours_of(numbered(7))).max() <= 4


def test_a_timed_replay_is_due_at_the_videos_times(tmp_path):
    write_video(tmp_path / "a.mp4", 12, rate=60)
    source = open_source(str(tmp_path / "a.mp4"), SourceOptions())
    assert source.is_live
    source.open()
    frames = read_all(source)
    source.close()
    dues = [frame.captured_ns for frame in frames]
    assert len(frames) == 12
    expected = [int(Fraction(i, 60) * 10**9) for i in range(12)]
    assert [due - dues[0] for due in dues] == expected
    assert all(frame.received_ns >= frame.captured_ns for frame in frames)


def test_a_video_begins_again(tmp_path):
    write_video(tmp_path / "a.mp4", 3)
    for replay in ("fast", "timed"):
        source = open_source(str(tmp_path / "a.mp4"), SourceOptions(replay=replay, loop=True))
        with nothing_left():
            source.open()
            frames = read_all(source, most=8)
            source.close()
        assert [number_of(frame.image) for frame in frames] == [0, 1, 2, 0, 1, 2, 0, 1]
        if replay == "timed":
            gaps = np.diff([frame.captured_ns for frame in frames])
            assert np.abs(gaps - 1e9 / 30).max() < 1e6


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.slow(file_seconds=10)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_upright_as_ffmpeg_shows_it(tmp_path, degrees: int):
    """Telephones write the picture as the sensor lies, and how far to turn it."""
    turned, shown = tmp_path / "turned.mp4", tmp_path / "shown.png"
    write_video(turned, 1, degrees=degrees)
    with av.open(str(turned)) as container:
        assert next(container.decode(video=0)).rotation % 360 == degrees
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", turned, shown], check=True)
    source = open_source(str(turned), FAST)
    source.open()
    (frame,) = read_all(source)
    source.close()
    pictures = open_source(str(shown), FAST)
    pictures.open()
    (expected,) = read_all(pictures)
    assert frame.image.shape == expected.image.shape
    assert np.abs(frame.image.astype(int) - expected.image).mean() < 8
    if degrees != 180:
        nv12 = open_source(str(turned), SourceOptions(format="nv12", replay="fast"))
        with pytest.raises(SourceError, match="a turned video cannot be nv12"):
            nv12.open()


def test_damaged_packets_are_lost_and_the_rest_arrives(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path, 10, codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    frames = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    assert len(frames) == 10
    begin, end = frames[4], frames[5] - 8
    path.write_bytes(data[:begin] + b"\0" * (end - begin) + data[end:])
    source = open_source(str(path), FAST)
    source.open()
    whole = read_all(source)
    source.close()
    assert [number_of(frame.image) for frame in whole] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [frame.lost for frame in whole] == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_files_that_are_no_videos_are_said(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    write_video(tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    write_video(tmp_path / "blank.avi", 3, codec="mjpeg", pix_fmt="yuvj420p")
    jpeg = re.compile(rb"\xff\xd8\xff.*?\xff\xd9", re.DOTALL)
    blank = jpeg.sub(lambda found: bytes(len(found[0])), (tmp_path / "blank.avi").read_bytes())
    (tmp_path / "blank.avi").write_bytes(blank)
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    cases = {
        "missing.mp4": "no such file",
        "text.mp4": "this video cannot be read",
        "empty.mp4": "this video cannot be read",
        "cut.mp4": "this video cannot be read",
        "blank.avi": "no frame of this video can be decoded",
        "sound.mkv": "there is no video in this file",
    }
    with nothing_left():
        for name, message in cases.items():
            with pytest.raises(SourceError, match=f"{name}: {message}"):
                open_source(str(tmp_path / name), FAST).open()


def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "a.mp4")
    for more, message in (
        ({"topic": "/a"}, "topic '/a': this kind of source takes size, format, replay, loop"),
        ({"rate_hz": 3}, "rate_hz 3: this kind of source takes"),
        ({"format": "jpeg"}, "format 'jpeg', expected one of rgb, bgr"),
        ({"size": (0, 4)}, "expected a height and a width"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_source(path, SourceOptions(**more))
    write_video(tmp_path / "a.mp4", 1)
    odd = open_source(path, SourceOptions(size=(5, 5), format="nv12"))
    with pytest.raises(SourceError, match="5x5 pixels cannot be nv12"):
        odd.open()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"needs av: pip install 'degmix-edge\[video\]'"):
        open_source(path).open()
