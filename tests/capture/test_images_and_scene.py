"""Folders of images, and the scene that is rendered."""

from __future__ import annotations

import threading
import time

import numpy as np
import PIL.Image
import pytest
from recordings import nothing_left, number_of, numbered, read_all

from degmix_edge.capture import SourceOptions, open_source
from degmix_edge.errors import ConfigError, SourceError

FAST = SourceOptions(replay="fast")


def write_images(folder, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(numbered(number)).save(path)


def test_a_folder_gives_its_images_in_order_of_their_names(tmp_path):
    write_images(tmp_path, ["b/1.png", "a/2.png", "a/1.bmp"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    with nothing_left():
        source = open_source(str(tmp_path))
        assert not source.is_live
        for _ in range(2):
            source.open()
            frames = read_all(source)
            source.close()
            assert [number_of(frame.image) for frame in frames] == [2, 1, 0]
    assert {(f.captured_ns, f.stamp_ns, f.stamp_source) for f in frames} == {
        (None, None, "unknown")
    }
    for text, expected in ((f"{tmp_path}/a/*", [2, 1]), (f"{tmp_path}/b/1.png", [0])):
        source = open_source(text)
        source.open()
        assert [number_of(frame.image) for frame in read_all(source)] == expected


def test_names_that_are_times_are_stamps(tmp_path):
    stamps = [1403636579763555584, 1403636579813555456, 1403636579863555584]
    write_images(tmp_path, [f"{stamp}.png" for stamp in stamps])
    source = open_source(str(tmp_path), SourceOptions(loop=True))
    source.open()
    frames = read_all(source, most=5)
    assert [frame.stamp_ns for frame in frames] == (stamps * 2)[:5]
    assert {frame.stamp_source for frame in frames} == {"file name"}
    (tmp_path / "1.png").write_bytes((tmp_path / f"{stamps[0]}.png").read_bytes())
    source.open()
    assert source.read(threading.Event()).stamp_ns is None


def test_a_rate_makes_images_a_camera(tmp_path):
    write_images(tmp_path, [f"{i}.png" for i in range(5)])
    source = open_source(str(tmp_path), SourceOptions(rate_hz=100))
    assert source.is_live
    source.open()
    frames = read_all(source)
    assert np.diff([frame.captured_ns for frame in frames]).tolist() == [10_000_000] * 4
    assert not open_source(str(tmp_path), SourceOptions(rate_hz=100, replay="fast")).is_live


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused(tmp_path, rate: float):
    for text in (str(tmp_path), "synthetic", "/dev/video0"):
        with pytest.raises(ConfigError, match="expected frames a second above 0"):
            open_source(text, SourceOptions(rate_hz=rate))


def test_images_that_cannot_be_read_are_said(tmp_path):
    with pytest.raises(SourceError, match="no images among its 0 files"):
        open_source(str(tmp_path)).open()
    with pytest.raises(SourceError, match="no images; expected a folder"):
        open_source(str(tmp_path / "*.png")).open()
    with pytest.raises(SourceError, match="no images; expected a folder"):
        open_source(str(tmp_path / "missing.png")).open()
    write_images(tmp_path, ["a.png", "c.png"])
    (tmp_path / "b.png").write_text("no image")
    source, stop = open_source(str(tmp_path)), threading.Event()
    source.open()
    assert number_of(source.read(stop).image) == 0
    with pytest.raises(SourceError, match=r"b\.png"):
        source.read(stop)
    assert number_of(source.read(stop).image) == 1
    timed = open_source(str(tmp_path), SourceOptions(rate_hz=100))
    timed.open()
    with pytest.warns(UserWarning, match=r"b\.png.*it is lost"):
        frames = read_all(timed)
    assert [(number_of(f.image), f.lost, f.index) for f in frames] == [(0, 0, 0), (1, 1, 1)]
    assert frames[1].captured_ns - frames[0].captured_ns == 20_000_000


# The scene


@pytest.mark.parametrize(
    ("text", "more", "size", "rate"),
    [
        ("synthetic", {}, (480, 640), 30),
        ("synthetic:320x200", {}, (200, 320), 30),
        ("synthetic:@12.5", {}, (480, 640), 12.5),
        ("synthetic:33x17@60", {}, (17, 33), 60),
        ("synthetic:33x17@60", {"size": (20, 10), "rate_hz": 5.0}, (20, 10), 5),
    ],
)
def test_the_text_says_size_and_rate(text: str, more, size, rate: float):
    source = open_source(text, SourceOptions(replay="fast", **more))
    source.open()
    frames = read_all(source, most=3)
    source.close()
    assert [frame.image.shape for frame in frames] == [(*size, 3)] * 3
    assert [frame.stamp_ns for frame in frames] == [int(i / rate * 1e9) for i in range(3)]
    assert [frame.stamp_source for frame in frames] == ["schedule"] * 3
    assert not source.is_live


@pytest.mark.parametrize(
    "text", ["synthetic:", "synthetic:1x1", "synthetic:9x9@0", "synthetic:9x9@1.2.3", "synthetic:x"]
)
def test_texts_that_are_no_scene_are_refused(text: str):
    with pytest.raises(SourceError, match="expected"):
        open_source(text)
    with pytest.raises(SourceError, match="image_pixels"):
        open_source("synthetic:100000x100000")


def test_the_same_frame_has_the_same_pixels():
    first, second = (open_source("synthetic:64x48", FAST) for _ in range(2))
    for source in (first, second):
        source.open()
    frames = read_all(first, most=5)
    for frame in frames:
        np.testing.assert_array_equal(second.read(threading.Event()).image, frame.image)
    assert not np.array_equal(frames[0].image, frames[1].image)
    first.close()
    with pytest.raises(SourceError, match="is closed"):
        first.render(0)


def test_the_wall_moves_as_the_camera_says():
    """Most pixels are the wall's, and a point of it moves by the difference of two places."""
    source = open_source("synthetic:160x120@10", FAST)
    source.open()
    fastest = 0.0
    for moment in range(0, 60, 7):
        before, after = (source.render(moment + i).astype(int) for i in (0, 1))
        (y0, x0), (y1, x1) = (source.place(moment + i) for i in (0, 1))
        dy, dx = y1 - y0, x1 - x0
        height, width = source.size
        rows = slice(max(0, dy), height + min(0, dy)), slice(max(0, -dy), height + min(0, -dy))
        columns = slice(max(0, dx), width + min(0, dx)), slice(max(0, -dx), width + min(0, -dx))
        same = (before[rows[0], columns[0]] == after[rows[1], columns[1]]).all(axis=-1)
        assert same.mean() > 0.7
        fastest = max(fastest, np.hypot(dy, dx))
    # 1 m/s before a wall 3 m away, in pixels of the focal length: and rounding to whole pixels.
    assert 3 < fastest <= source.intrinsics[0, 0] / 3 / 10 + np.sqrt(2)


def test_a_timed_scene_is_due_at_its_rate_and_skips_what_nobody_took():
    source, stop = open_source("synthetic:64x48@50"), threading.Event()
    assert source.is_live
    source.open()
    frames = [source.read(stop) for _ in range(3)]
    time.sleep(0.2)
    frames += [source.read(stop) for _ in range(3)]
    dues = np.array([frame.captured_ns for frame in frames])
    moments = (dues - dues[0]) / 20e6
    np.testing.assert_allclose(moments, moments.round(), atol=1e-6)
    assert (np.diff(moments) > 0).all()
    assert source.skipped >= 9
    assert all(frame.received_ns >= frame.captured_ns for frame in frames)
    assert all(abs(time.time_ns() - frame.stamp_ns) < 60e9 for frame in frames)
    assert [frame.index for frame in frames] == list(range(6))
    np.testing.assert_array_equal(
        frames[-1].image, source.render(round((dues[-1] - source._start_ns) / 20e6))
    )
    source.close()
