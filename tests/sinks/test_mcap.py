"""Recordings that we write, read by two libraries that know nothing of ours."""

import contextlib
import io
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from mcap_ros2.reader import read_ros2_messages
from recorded import START_NS, STEP_NS, as_sent, frames, results
from rosbags.highlevel import AnyReader

import degmix_edge
from degmix_edge.camera import to_rgb
from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.runtime.messages import map_topic
from degmix_edge.sinks import SinkOptions, _file, mcap, open_sink

MATRIX = np.array([[50.0, 0, 48], [0, 50, 32], [0, 0, 1]])
DTYPES = {"mono8": np.uint8, "32FC1": np.float32, "32FC3": np.float32}


@pytest.fixture(scope="module")
def session(bundles):
    with degmix_edge.load(bundles["fp32"].path, threads=1) as session:
        yield session


@pytest.fixture(scope="module")
def recording(session, pictures, tmp_path_factory):
    """A recording of twelve frames with semseg at a third of the rate, and its results."""
    path = tmp_path_factory.mktemp("mcap") / "maps.mcap"
    rates = {"depth": None, "normals": None, "edge": None, "semseg": 10}
    found = results(session, frames(pictures, 12, intrinsics=MATRIX), rates=rates)
    with open_sink(str(path), session.spec, SinkOptions(image=True)) as sink:
        for result in found:
            sink.write(result)
        assert not path.exists()  # it gets its name when it is whole
    assert [one.name for one in path.parent.iterdir()] == ["maps.mcap"]
    return path, found


def pixels(message, array):
    return np.frombuffer(message.data, DTYPES[message.encoding]).reshape(array.shape)


def test_rosbags_reads_every_map_with_its_stamp(recording, session):
    path, found = recording
    topics = {f"/camera/{map_topic(task, session.spec.tasks)}": task for task in session.spec.tasks}
    expected = {
        (topic, result.stamp_ns): result.maps[task.name]
        for topic, task in topics.items()
        for result in found
        if task.name in result.fresh
    }
    seen = set()
    with AnyReader([path]) as reader:
        for connection, logged_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert stamp == logged_ns
            assert message.header.frame_id == "optical"
            if connection.topic not in topics:
                continue
            array = as_sent(expected[connection.topic, stamp])
            assert (message.height, message.width) == array.shape[:2]
            assert message.step * message.height == len(message.data)
            np.testing.assert_array_equal(pixels(message, array), array)
            seen.add((connection.topic, stamp))
    assert seen == expected.keys()
    assert sum(topic == "/camera/segmentation/mask" for topic, _ in seen) == 4


def test_class_names_come_once_and_are_kept_for_late_readers(recording, session):
    path, _ = recording
    with AnyReader([path]) as reader:
        topics = {c.topic: c for c in reader.connections}
        labels = topics["/camera/segmentation/label_info"]
        assert labels.msgtype == "vision_msgs/msg/LabelInfo"
        assert labels.msgcount == 1
        _, logged_ns, raw = next(reader.messages([labels]))
        info = reader.deserialize(raw, labels.msgtype)
    names = [(one.class_id, one.class_name) for one in info.class_map]
    assert names == list(enumerate(session.spec.task("semseg").classes))
    assert logged_ns == START_NS
    durability = {t: c.ext.offered_qos_profiles[0].durability.name for t, c in topics.items()}
    assert {t for t, d in durability.items() if d == "TRANSIENT_LOCAL"} == {labels.topic}


def test_a_second_reader_reads_the_same(recording):
    path, found = recording
    counts = Counter()
    with AnyReader([path]) as reader:
        raws = {(c.topic, t): reader.deserialize(raw, c.msgtype) for c, t, raw in reader.messages()}
    for message in read_ros2_messages(path):
        other = raws[message.channel.topic, message.log_time_ns]
        counts[message.channel.topic] += 1
        if hasattr(other, "data"):
            assert bytes(message.ros_msg.data) == other.data.tobytes()
            assert message.ros_msg.encoding == other.encoding
    assert counts.total() == len(raws)
    assert counts["/camera/image_raw"] == len(found) == 12


def test_the_camera_of_a_map_is_beside_it(recording, session):
    path, _ = recording
    with AnyReader([path]) as reader:
        for topic in ("/camera/depth/camera_info", "/camera/camera_info"):
            found = [c for c in reader.connections if c.topic == topic]
            _, _, raw = next(reader.messages(found))
            info = reader.deserialize(raw, "sensor_msgs/msg/CameraInfo")
            assert (info.height, info.width) == (session.spec.height, session.spec.width)
            np.testing.assert_array_equal(info.k.reshape(3, 3), MATRIX)
            np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], MATRIX)
            assert info.binning_x == info.roi.width == 0


def test_schemas_are_those_of_ros(recording):
    """The hashes are those that ROS 2 computes of its own definitions."""
    path, _ = recording
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    hashes = {
        summary.schemas[c.schema_id].name: c.metadata["topic_type_hash"]
        for c in summary.channels.values()
    }
    published = {
        "sensor_msgs/msg/Image": ("d31d41a9", "527d47"),
        "sensor_msgs/msg/CameraInfo": ("b3dfd68f", "e7e275"),
        "vision_msgs/msg/LabelInfo": ("3d37df40", "0783"),
    }
    assert hashes.keys() == published.keys()
    for name, (first, last) in published.items():
        assert hashes[name].startswith(f"RIHS01_{first}")
        assert hashes[name].endswith(last)
    with path.open("rb") as file:
        assert make_reader(file).get_header().profile == "ros2"


@pytest.mark.parametrize("kind", ["rgb", "bgr", "nv12", "yuyv"])
def test_the_image_is_what_the_camera_gave(session, tmp_path, kind):
    shape = {"nv12": (96, 96), "yuyv": (64, 96, 2)}.get(kind, (64, 96, 3))
    image = np.random.default_rng(0).integers(16, 236, shape, np.uint8)
    found = results(session, frames([image], 1, format=kind))
    with open_sink(str(tmp_path / "a.mcap"), session.spec, SinkOptions(image=True)) as sink:
        sink.write(found[0])
    with AnyReader([tmp_path / "a.mcap"]) as reader:
        chosen = [c for c in reader.connections if c.topic == "/camera/image_raw"]
        _, _, raw = next(reader.messages(chosen))
        message = reader.deserialize(raw, chosen[0].msgtype)
    assert (message.height, message.width) == (64, 96)
    back = message.data.reshape(shape)
    np.testing.assert_array_equal(to_rgb(back, kind), to_rgb(image, kind))
    assert message.encoding.startswith(kind.replace("yuyv", "yuv422_yuy2"))


def test_frames_without_a_stamp_are_logged_when_they_came(session, pictures, tmp_path):
    path = tmp_path / "a.mcap"
    before = time.time_ns()
    received = time.monotonic_ns()
    found = results(session, [CapturedFrame(pictures[0], received)])
    with open_sink(str(path), session.spec) as sink:
        sink.write(found[0])
    with AnyReader([path]) as reader:
        for connection, logged_ns, raw in reader.messages():
            assert before - 10**7 <= logged_ns <= time.time_ns()
            assert reader.deserialize(raw, connection.msgtype).header.stamp.sec == 0


def test_only_the_chosen_tasks_are_written(session, pictures, tmp_path):
    path = tmp_path / "a.mcap"
    with open_sink(str(path), session.spec, SinkOptions(tasks=("depth",))) as sink:
        sink.write(results(session, frames(pictures, 1))[0])
    with AnyReader([path]) as reader:
        assert [c.topic for c in reader.connections] == ["/camera/depth/image"]
    with pytest.raises(ConfigError, match="no task 'dept'"):
        open_sink(str(tmp_path / "b.mcap"), session.spec, SinkOptions(tasks=("dept",)))


def test_two_cameras_have_topics_of_their_own(session, pictures, tmp_path):
    path = tmp_path / "a.mcap"
    cameras = {"front-left": frames(pictures, 2), "rear": frames(pictures, 2)}
    with (
        open_sink(str(path), session.spec, SinkOptions(tasks=("semseg",))) as sink,
        degmix_edge.stream(session, cameras) as stream,
    ):
        for result in stream:
            sink.write(result)
    with AnyReader([path]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert counts == {
        "/front_left/segmentation/mask": 2,
        "/front_left/segmentation/label_info": 1,
        "/rear/segmentation/mask": 2,
        "/rear/segmentation/label_info": 1,
    }


def test_a_recording_that_an_error_ends_can_be_read(session, pictures, tmp_path):
    path = tmp_path / "a.mcap"
    found = results(session, frames(pictures, 3))

    def record():
        with open_sink(str(path), session.spec) as sink:
            for result in found:
                sink.write(result)
            raise RuntimeError("the consumer broke")

    with pytest.raises(RuntimeError, match="the consumer broke"):
        record()
    with AnyReader([path]) as reader:
        assert reader.end_time - reader.start_time == 2 * STEP_NS + 1


def test_without_results_there_is_no_file(session, tmp_path):
    with open_sink(str(tmp_path / "a.mcap"), session.spec):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept(session, pictures, tmp_path):
    path = tmp_path / "a.mcap"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"a\.mcap: exists; give --force"):
        open_sink(str(path), session.spec)
    with open_sink(str(path), session.spec, SinkOptions(force=True)) as sink:
        sink.write(results(session, frames(pictures, 1))[0])
        assert path.read_text() == "precious"
    assert path.read_bytes().startswith(b"\x89MCAP")
    with pytest.raises(OutputError, match="is closed"):
        sink.write(results(session, frames(pictures, 1))[0])
    with pytest.raises(OutputError, match="no such folder"):
        open_sink(str(tmp_path / "none" / "a.mcap"), session.spec)


@contextlib.contextmanager
def disk(folder, size):
    """A small disk, where the machine lets us make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_noise(session, path):
    """Write pictures that no codec makes smaller, until the sink refuses them."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (192, 288, 3), np.uint8) for _ in range(8)]
    with open_sink(str(path), session.spec, SinkOptions(image=True)) as sink:
        for result in results(session, frames(noise, 48)):
            sink.write(result)


# Not of Rerun: its own writer sometimes never returns when its disk is full.
@pytest.mark.parametrize("ending", [".mcap", ".mp4"])
def test_a_full_disk_leaves_nothing(session, tmp_path, ending, monkeypatch):
    monkeypatch.setattr(_file, "LEAST_FREE_BYTES", 0)
    with disk(tmp_path / "small", "64k") as small:
        with pytest.raises(OutputError, match="cannot be written"):
            write_noise(session, small / f"a{ending}")
        assert os.listdir(small) == []


def test_a_recording_ends_before_the_disk_is_full(session, tmp_path, monkeypatch):
    monkeypatch.setattr(_file, "LEAST_FREE_BYTES", 3_000_000)
    with disk(tmp_path / "small", "8m") as small:
        with pytest.raises(OutputError, match=r"MB left, .* it ends with \d+ results: free"):
            write_noise(session, small / "a.mcap")
        assert os.listdir(small) == ["a.mcap"]
        with AnyReader([small / "a.mcap"]) as reader:
            counts = {c.topic: c.msgcount for c in reader.connections}
    assert 10 < counts["/camera/image_raw"] == counts["/camera/depth/image"] < 48


def test_a_missing_package_is_named(session, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rosbags", None)
    with pytest.raises(ConfigError, match=r"needs rosbags.*pip install 'degmix-edge\[bags\]'"):
        open_sink(str(tmp_path / "a.mcap"), session.spec)


def test_an_unknown_output_is_refused(session):
    with pytest.raises(ConfigError, match=r"maps\.bag'.*\(\.mcap\).*a video to write"):
        open_sink("maps.bag", session.spec)
    assert mcap.recognises("MAPS.MCAP")


def test_a_file_that_was_cut_off_has_its_first_messages(recording):
    """Such as after a power failure: a reader without the index finds all whole chunks."""
    data = Path(recording[0]).read_bytes()
    kinds = []
    with pytest.raises(EndOfFile):
        kinds += map(type, StreamReader(io.BytesIO(data[: len(data) * 9 // 10])).records)
    assert kinds.count(Message) > 10
