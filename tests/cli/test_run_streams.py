"""`degmix-edge run` on videos, recordings and scenes, and what it refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader

from degmix_edge.workflows.record import record_stream

KEYS = {"bundle", "source", "tasks", "written", "results", "seconds"}
KEYS |= {"rates_hz", "ended_by", "stats"}


@pytest.fixture(scope="module")
def bundle(bundles) -> Path:
    return bundles["fp32"].path


@pytest.fixture(scope="module")
def video(tmp_path_factory, pictures) -> Path:
    """Fifteen frames at 30 Hz."""
    path = tmp_path_factory.mktemp("video") / "drive.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for index in range(15):
            picture = pictures[index % len(pictures)]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def bag(bundle, video, tmp_path_factory) -> Path:
    """The video as a recording of ROS, which the product writes itself."""
    from degmix_edge.sinks import SinkOptions

    path = tmp_path_factory.mktemp("bag") / "drive.mcap"
    options = SinkOptions(tasks=("depth",), image=True)
    record_stream(bundle, video, [path], options=options, threads=1)
    return path


def stamps(path: Path, topic: str) -> list[int]:
    with AnyReader([path]) as reader:
        chosen = [c for c in reader.connections if c.topic == topic]
        return [logged_ns for _, logged_ns, _ in reader.messages(chosen)]


def test_a_video_becomes_a_recording_and_a_video(cli, bundle, video, tmp_path):
    outputs = ("--out", "maps.mcap", "--out", "overlay.mp4")
    rates = ("--rate", "depth=every", "--rate", "semseg=10")
    code, out, err = cli("run", bundle, video, *outputs, *rates, "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values.keys() == KEYS
    assert (values["results"], values["ended_by"]) == (15, "source")
    assert values["tasks"] == ["semseg", "depth"]
    assert values["written"] == ["maps.mcap", "overlay.mp4"]
    counts = values["stats"]["cameras"]["camera"]
    assert (counts["captured"], counts["delivered"], sum(counts["dropped"].values())) == (15, 15, 0)
    assert "15 results" in err
    assert "depth, runs a second" in err
    assert "maps: maps.mcap, overlay.mp4" in err
    # A video's stamps are times since its own start.
    depth = stamps(tmp_path / "maps.mcap", "/camera/depth/image")
    np.testing.assert_allclose(depth, np.arange(15) / 30 * 1e9, atol=1e6)
    assert len(stamps(tmp_path / "maps.mcap", "/camera/segmentation/mask")) == 5
    with av.open("overlay.mp4") as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(15) / 30, atol=1e-3)


def test_a_recording_is_read_as_fast_as_possible_or_as_it_was(cli, bundle, bag, tmp_path):
    topic = ("--topic", "/camera/image_raw", "--tasks", "depth", "--json")
    code, out, err = cli("run", bundle, bag, "--out", "fast.mcap", *topic)
    assert code == 0, err
    assert json.loads(out)["results"] == 15
    original = stamps(bag, "/camera/image_raw")
    assert stamps(tmp_path / "fast.mcap", "/camera/depth/image") == original
    code, out, err = cli("run", bundle, bag, "--out", "timed.mcap", "--timed", *topic)
    assert code == 0, err
    values = json.loads(out)
    counts = values["stats"]["cameras"]["camera"]
    assert values["results"] + sum(counts["dropped"].values()) == counts["captured"] <= 15
    # The last frame comes 14 periods after the first, whatever was dropped in between.
    assert values["seconds"] == pytest.approx(14 / 30, abs=0.3)
    assert values["stats"]["age_ms"]["p50"] > 0
    assert set(stamps(tmp_path / "timed.mcap", "/camera/depth/image")) <= set(original)


def test_a_stream_into_a_folder(cli, bundle, video, tmp_path):
    code, _, err = cli("run", bundle, video, "--out", "maps", "--tasks", "depth,edge", "--native")
    assert code == 0, err
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert len(names) == 45
    assert names[:3] == ["000000_0.depth.png", "000000_0.edge.png", "000000_0.npz"]
    assert np.load(tmp_path / "maps" / "000000_0.npz")["depth"].shape == (64, 96)
    code, _, err = cli("run", bundle, video, "--out", "maps")
    assert code == 12
    assert "exists; give --force" in err
    assert cli("run", bundle, video, "--out", "maps", "--force")[0] == 0


def test_images_become_a_video_if_that_is_asked_for(cli, bundle, pictures, tmp_path):
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pictures[:3]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    code, _, err = cli("run", bundle, "photos", "--out", "overlay.mkv")
    assert code == 0, err
    with av.open("overlay.mkv") as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_view_of_a_scene(cli, bundle):
    options = ("--view", "foxglove:0", "--duration", "1", "--view-rate", "20", "--json")
    code, out, err = cli("run", bundle, "synthetic:96x64@30", *options)
    assert code == 0, err
    assert "foxglove: open a connection to ws://127.0.0.1:" in err
    values = json.loads(out)
    assert (values["written"], values["ended_by"]) == ([], "duration")
    assert values["results"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("photo.png", "--rate", "depth=3"), 3, "--rate: only for videos, recordings and cameras"),
        (("photo.png", "--timed"), 3, "--fast and --timed: only for videos"),
        (("photo.png", "--duration", "3"), 3, "--duration: only for videos"),
        (("photo.png", "--with-image"), 3, "--with-image: only for videos"),
        (("photo.png", "--out", "a", "--out", "b"), 3, "got 2 folders for images"),
        (("VIDEO", "VIDEO", "--out", "a.mp4"), 3, "expected one for a video, a recording"),
        (("VIDEO", "--view", "rviz"), 3, "no view 'rviz'"),
        (("VIDEO", "--view", "foxglove:0", "--view-rate", "0"), 3, "expected a number above 0"),
        (("VIDEO", "--rate", "depth"), 3, "rate 'depth': expected a task and its runs a second"),
        (("VIDEO", "--rate", "deph=3"), 3, "no task 'deph'"),
        (("VIDEO", "--rate", "depth=nan"), 3, "depth"),
        (("VIDEO", "--rate", "depth=0"), 3, "no task has a rate above 0"),
        (("VIDEO", "--topic", "/image"), 3, "topic"),
        (("VIDEO", "--duration", "0"), 3, "expected seconds above 0"),
        (("VIDEO", "--out", "none/a.mp4"), 12, "no such folder"),
        (("none.mp4", "--out", "a.mp4"), 15, "none.mp4: no such file"),
        (("none.mcap", "--out", "a.mcap"), 15, "none.mcap: no such recording"),
        (("/dev/video99", "--out", "a.mcap"), 15, "/dev/video99"),
    ],
)
def test_bad_input(cli, bundle, video, pictures, tmp_path, arguments, code, message):
    Image.fromarray(pictures[0]).save("photo.png")
    given = [str(video) if one == "VIDEO" else one for one in arguments]
    found, out, err = cli("run", bundle, *given, "--json")
    assert found == code, err
    assert message in err
    assert json.loads(out)["error"]["exit_code"] == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


@pytest.mark.slow(file_seconds=15)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_in_time_with_whole_files(bundle, tmp_path, number):
    outputs = ["--out", "maps.mcap", "--out", "overlay.mp4", "--view", "foxglove:0", "--json"]
    command = [sys.executable, "-m", "degmix_edge", "run", str(bundle), "synthetic:96x64@30"]
    with (tmp_path / "err").open("w") as err:
        child = subprocess.Popen(
            [*command, *outputs], stdout=subprocess.PIPE, stderr=err, cwd=tmp_path, text=True
        )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".overlay.mp4.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    start = time.monotonic()
    child.send_signal(number)
    out, _ = child.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert child.returncode == 128 + number
    values = json.loads(out)
    assert values["ended_by"] == number.name
    depth = stamps(tmp_path / "maps.mcap", "/camera/depth/image")
    assert len(depth) == values["results"] > 1
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == values["results"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["err", "maps.mcap", "overlay.mp4"]
