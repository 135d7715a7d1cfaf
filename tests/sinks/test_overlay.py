"""Overlay videos, decoded again."""

import av
import numpy as np
import pytest
from recorded import START_NS, STEP_NS, frames, results

import degmix_edge
from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.sinks import SinkOptions, open_sink, video


@pytest.fixture(scope="module")
def session(bundles):
    with degmix_edge.load(bundles["fp32"].path, threads=1) as session:
        yield session


def write(path, session, found, **options):
    with open_sink(str(path), session.spec, SinkOptions(**options)) as sink:
        for result in found:
            sink.write(result)


def read(path):
    """Seconds of each frame, and the frames as RGB."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    times = [float(frame.pts * frame.time_base) for frame in decoded]
    return np.array(times), [frame.to_ndarray(format="rgb24") for frame in decoded]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_one_task_is_drawn_over_the_image_at_the_times_of_the_stamps(
    session, pictures, tmp_path, ending
):
    path = tmp_path / f"overlay{ending}"
    found = results(session, frames(pictures, 5))
    write(path, session, found, tasks=("semseg",))
    times, shown = read(path)
    # Matroska counts milliseconds.
    np.testing.assert_allclose(times, np.arange(5) / 30, atol=0.001)
    for result, picture in zip(found, shown, strict=True):
        assert picture.shape == (64, 96, 3)
        expected = result.maps["semseg"].overlay(result.frame.image).astype(int)
        below = np.s_[video.LABEL_HEIGHT :]  # of the name
        assert np.abs(picture[below] - expected[below]).mean() < 10
        other = result.maps["semseg"].overlay(result.frame.image[::-1]).astype(int)
        assert np.abs(picture[below] - other[below]).mean() > 16


def test_a_grid_has_the_image_and_every_task(session, pictures, tmp_path):
    found = results(session, frames(pictures, 2))
    write(tmp_path / "grid.mp4", session, found)
    _, shown = read(tmp_path / "grid.mp4")
    height, width = shown[0].shape[:2]
    assert (height % 2, width % 2) == (0, 0)
    assert video.NARROWEST <= width <= video.WIDEST
    rows, columns = 3, 3  # of an image and six tasks
    cell_height, cell_width = height // rows, width // columns
    cells = [found[0].frame.image] + [
        found[0].maps[task].colour() for task in session.spec.task_names
    ]
    for index, expected in enumerate(cells):
        top, left = index // columns * cell_height, index % columns * cell_width
        # The lower half of the cell, where no name is, at the map's own size.
        below = shown[0][top : top + cell_height, left : left + cell_width][cell_height // 2 :]
        small = below[2::5, 2::5].astype(int)
        steps = [
            (np.arange(count) / count * size).astype(int)
            for count, size in zip(small.shape[:2], (32, 96), strict=True)
        ]
        nearest = expected[32:][steps[0][:, None], steps[1]].astype(int)
        assert np.abs(small - nearest).mean() < 20, index


def test_irregular_stamps_keep_their_times_and_jumps_back_go_on(session, pictures, tmp_path):
    stamps = [
        0,
        100_000_000,
        110_000_000,
        50_000_000,
        None,
        150_000_000,
        START_NS,
        START_NS + 10**9,
    ]
    given = [CapturedFrame(pictures[0], 0, stamp_ns=s, index=i) for i, s in enumerate(stamps)]
    write(tmp_path / "a.mp4", session, results(session, given), tasks=("depth",))
    times, _ = read(tmp_path / "a.mp4")
    usual = 1 / 30
    steps = [0.1, 0.01, usual, usual, usual, usual, 1]
    np.testing.assert_allclose(np.diff(times), steps, atol=1e-4)


def test_frames_of_odd_sides_and_changing_sizes(session, pictures, tmp_path):
    given = [pictures[0][:63, :95], pictures[0][:40, :50], pictures[0]]
    write(tmp_path / "a.mp4", session, results(session, given), tasks=("depth",))
    _, shown = read(tmp_path / "a.mp4")
    assert [picture.shape for picture in shown] == [(62, 94, 3)] * 3


def test_the_camera_s_frame_is_not_drawn_on(session, pictures, tmp_path):
    before = [picture.copy() for picture in pictures]
    write(tmp_path / "a.mp4", session, results(session, frames(pictures, len(pictures))))
    write(tmp_path / "b.mp4", session, results(session, frames(pictures, 1)), tasks=("edge",))
    np.testing.assert_array_equal(before, pictures)


def test_a_map_that_was_held_says_so(session, pictures, tmp_path):
    """The name in the corner is longer, and nothing else differs."""
    given = frames([pictures[0]], 3)
    rates = {"depth": None, "edge": 1}
    write(tmp_path / "a.mp4", session, results(session, given, rates=rates), tasks=("edge",))
    _, shown = read(tmp_path / "a.mp4")
    first, last = (picture.astype(int) for picture in (shown[0], shown[-1]))
    name, rest = np.s_[: video.LABEL_HEIGHT], np.s_[video.LABEL_HEIGHT + 8 :]
    assert np.abs(first[name] - last[name]).mean() > 8
    assert np.abs(first[rest] - last[rest]).mean() < 4


def test_without_x264_another_encoder_is_used(session, pictures, tmp_path, monkeypatch):
    monkeypatch.delitem(video.ENCODERS, "libx264")
    found = results(session, frames(pictures, 3))
    write(tmp_path / "a.mp4", session, found, tasks=("depth",))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    times, _ = read(tmp_path / "a.mp4")
    np.testing.assert_allclose(times, np.arange(3) * STEP_NS / 1e9, atol=1e-4)
    monkeypatch.setattr(video, "ENCODERS", {})
    with pytest.raises(OutputError, match="has no encoder"):
        write(tmp_path / "b.mp4", session, found)
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]


def test_two_cameras_in_one_video_are_refused(session, pictures, tmp_path):
    cameras = {"left": frames(pictures, 1), "right": frames(pictures, 1)}
    with degmix_edge.stream(session, cameras) as stream:
        found = list(stream)
    with pytest.raises(OutputError, match="shows one camera, got results of 'left' and 'right'"):
        write(tmp_path / "a.mp4", session, found)


def test_a_missing_package_is_named(session, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r"needs av.*pip install 'degmix-edge\[video\]'"):
        open_sink(str(tmp_path / "a.mp4"), session.spec)
