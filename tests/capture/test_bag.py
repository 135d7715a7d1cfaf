"""Recordings of ROS, as rosbags writes them: every pixel, stamp and matrix arrives as recorded."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from recordings import nothing_left, number_of, numbered, read_all, rgb_of
from test_formats import mosaic_of

from degmix_edge.capture import SourceOptions, open_source
from degmix_edge.errors import ConfigError, SourceError

pytest.importorskip("rosbags")
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402

STORE = get_typestore(Stores.ROS2_JAZZY)
IMAGE, COMPRESSED, INFO, TEXT = (
    *(f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "CameraInfo")),
    "std_msgs/msg/String",
)
START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 20_000_000
FAST = SourceOptions(replay="fast")


def types(name: str):
    return STORE.types[name]


def header(stamp_ns: int, frame_id: str = "camera_optical"):
    stamp = types("builtin_interfaces/msg/Time")(stamp_ns // 10**9, stamp_ns % 10**9)
    return types("std_msgs/msg/Header")(stamp, frame_id)


def image_message(array: np.ndarray, encoding: str, stamp_ns: int, **more):
    """A message of an array whose rows are `step` bytes long."""
    height, width = more.get("size", array.shape[:2])
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(array.shape[0], -1)
    step = rows.shape[1] + more.get("padding", 0)
    data = np.pad(rows, ((0, 0), (0, step - rows.shape[1])), constant_values=99).reshape(-1)
    is_big = more.get("is_bigendian", 0)
    return types(IMAGE)(header(stamp_ns), height, width, encoding, is_big, step, data)


def compressed_message(image: np.ndarray, kind: str, stamp_ns: int):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind.upper())
    data = np.frombuffer(file.getvalue(), np.uint8)
    return types(COMPRESSED)(header(stamp_ns), f"rgb8; {kind} compressed bgr8", data)


def info_message(k: list[float], size=(48, 96), binning=(0, 0), roi=(0, 0)):
    region = types("sensor_msgs/msg/RegionOfInterest")(*roi, 0, 0, False)
    zeros = np.zeros(0), np.array(k, np.float64), np.eye(3).reshape(-1), np.zeros(12)
    return types(INFO)(header(0), *size, "plumb_bob", *zeros, *binning, region)


def write(path: Path, messages: list[tuple], storage=StoragePlugin.MCAP) -> str:
    """Write a bag of (topic, type, time of recording, message)."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, kind, logged_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            if message is not None:
                raw = STORE.serialize_cdr(message, kind)
                writer.write(connections[topic], logged_ns, raw)
    return str(path)


def numbered_bag(path: Path, count: int = 8, storage=StoragePlugin.MCAP, late_ns=5_000_000) -> str:
    stamps = [START_NS + i * PERIOD_NS for i in range(count)]
    return write(
        path,
        [
            ("/cam/image_raw", IMAGE, s + late_ns, image_message(numbered(i), "rgb8", s))
            for i, s in enumerate(stamps)
        ],
        storage,
    )


def one_frame(path: Path, message, kind: str = IMAGE, *more: tuple):
    source = open_source(write(path, [("/a/image", kind, START_NS, message), *more]), FAST)
    source.open()
    (frame,) = read_all(source)
    source.close()
    return frame


# What arrives


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("is_file", [False, True])
def test_images_arrive_in_order_with_their_stamps(tmp_path, storage, is_file: bool):
    path = numbered_bag(tmp_path / "bag", storage=storage)
    if is_file:
        (path,) = (str(p) for p in (tmp_path / "bag").iterdir() if p.suffix in (".mcap", ".db3"))
    source = open_source(path, FAST)
    assert not source.is_live
    with nothing_left():
        for _ in range(2):  # it may be opened again
            source.open()
            frames = read_all(source)
            source.close()
            source.close()
            assert [number_of(frame.image) for frame in frames] == list(range(8))
            assert [f.stamp_ns for f in frames] == [START_NS + i * PERIOD_NS for i in range(8)]
            assert [frame.index for frame in frames] == list(range(8))
    assert {frame.frame_id for frame in frames} == {"camera_optical"}
    assert {(f.captured_ns, f.stamp_source, f.lost) for f in frames} == {(None, "header", 0)}
    np.testing.assert_array_equal(frames[3].image, numbered(3))
    assert source.jumps == 0


RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
ALPHA = np.dstack([RGB, RGB[..., 0]])


@pytest.mark.parametrize(
    ("encoding", "array", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB, RGB[..., ::-1]),
        ("8UC3", RGB, RGB[..., ::-1]),
        ("rgba8", ALPHA, RGB),
        ("bgra8", ALPHA, RGB[..., ::-1]),
        ("mono8", RGB[..., 1], RGB[..., 1:2].repeat(3, axis=2)),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding_and_padding_gives_its_pixels(tmp_path, encoding, array, expected, padding):
    message = image_message(array, encoding, START_NS, padding=padding)
    np.testing.assert_array_equal(rgb_of(one_frame(tmp_path / "bag", message)), expected)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("layout", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_becomes_the_picture(tmp_path, layout: str, padding: int):
    image = numbered(5)
    message = image_message(mosaic_of(image, layout), f"bayer_{layout}8", 1, padding=padding)
    rgb = rgb_of(one_frame(tmp_path / "bag", message))
    assert number_of(rgb) == 5
    inner = np.s_[30:46, 4:40]  # far from every edge of the picture
    np.testing.assert_array_equal(rgb[inner], image[inner])


@pytest.mark.parametrize(
    ("encoding", "pixels", "kind"),
    [
        *[(name, "yuyv422", "yuyv") for name in ("yuv422_yuy2", "yuyv")],
        *[(name, "yuyv422", None) for name in ("yuv422", "uyvy")],
        ("nv12", "nv12", "nv12"),
    ],
)
def test_yuv_has_the_colours_of_the_picture(tmp_path, encoding: str, pixels: str, kind):
    av = pytest.importorskip("av")
    image = numbered(9)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
    array = frame.to_ndarray()
    array = array[..., ::-1] if kind is None else array
    message = image_message(array, encoding, START_NS, padding=2, size=image.shape[:2])
    frame = one_frame(tmp_path / "bag", message)
    assert kind in (None, frame.format)
    assert number_of(rgb_of(frame)) == 9
    assert np.abs(rgb_of(frame)[40, [20, 70]].astype(int) - image[40, [20, 70]]).max() <= 3


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize(("encoding", "dtype"), [("16UC1", np.uint16), ("32FC1", np.float32)])
def test_depth_is_in_metres(tmp_path, encoding: str, dtype, is_bigendian: int):
    depth = np.linspace(0, 4000, 24).reshape(4, 6).astype(dtype)
    stored = depth.astype(np.dtype(dtype).newbyteorder("<>"[is_bigendian]))
    message = image_message(stored, encoding, 1, is_bigendian=is_bigendian, padding=4)
    image = one_frame(tmp_path / "bag", message).image
    assert image.dtype == np.float32
    units = 1000 if dtype == np.uint16 else 1  # whole numbers are millimetres, by REP 118
    np.testing.assert_array_equal(image, depth.astype(np.float32) / np.float32(units))


@pytest.mark.parametrize(("kind", "error"), [("png", 0), ("jpeg", 12)])
def test_compressed_images_are_decoded(tmp_path, kind: str, error: int):
    message = compressed_message(numbered(77), kind, START_NS)
    frame = one_frame(tmp_path / "bag", message, COMPRESSED)
    assert (frame.stamp_ns, frame.frame_id, frame.format) == (START_NS, "camera_optical", "rgb")
    assert np.abs(frame.image[40, [20, 70]].astype(int) - numbered(77)[40, [20, 70]]).max() <= error


# Camera matrices

K = [100.0, 0, 47.5, 0, 101.0, 23.5, 0, 0, 1]


@pytest.mark.parametrize(
    ("topic", "kind", "info"),
    [
        ("/cam/image_raw", IMAGE, "/cam/camera_info"),
        ("/cam/image_raw/compressed", COMPRESSED, "/cam/camera_info"),
        ("/image", IMAGE, "/camera_info"),
    ],
)
def test_the_matrix_is_that_of_the_topic_beside(tmp_path, topic: str, kind: str, info: str):
    first = image_message(numbered(0), "rgb8", 1)
    message = first if kind == IMAGE else compressed_message(numbered(0), "png", 1)
    other = [9.0] * 9
    path = write(
        tmp_path / "bag",
        [
            ("/other/camera_info", INFO, START_NS, info_message(other)),
            (topic, kind, START_NS + 1, message),  # before the first info
            (info, INFO, START_NS + 2, info_message(K)),
            (topic, kind, START_NS + 3, message),
            (info, INFO, START_NS + 4, info_message([2 * v for v in K])),
            (topic, kind, START_NS + 5, message),
        ],
    )
    source = open_source(path, FAST)
    source.open()
    matrices = [frame.intrinsics for frame in read_all(source)]
    source.close()
    expected = np.array(K).reshape(3, 3)
    np.testing.assert_array_equal(matrices, [expected, expected, 2 * expected])


def test_binning_and_region_of_interest_apply_to_the_matrix(tmp_path):
    """A point projects to the same place of the scene through the frame's own pixels."""
    info = ("/a/camera_info", INFO, START_NS, info_message(K, binning=(2, 2), roi=(20, 10)))
    message = image_message(numbered(0), "rgb8", 1)
    matrix = one_frame(tmp_path / "bag", message, IMAGE, info).intrinsics
    point = np.array([0.3, -0.2, 2.0])
    whole, own = np.array(K).reshape(3, 3) @ point, matrix @ point
    u, v = whole[:2] / whole[2]
    np.testing.assert_allclose(own[:2] / own[2], [(u - 20) / 2, (v - 10) / 2])
    assert matrix[2].tolist() == [0, 0, 1]


def test_a_matrix_of_zeros_is_unknown(tmp_path):
    info = ("/a/camera_info", INFO, START_NS, info_message([0.0] * 9))
    infos = [info, ("/a/camera_info", INFO, START_NS + 9, info_message([0.0] * 9))]
    with pytest.warns(UserWarning, match="not calibrated") as caught:
        frame = one_frame(tmp_path / "bag", image_message(RGB, "rgb8", 1), IMAGE, *infos)
    assert frame.intrinsics is None
    assert len(caught) == 1


# Time


def test_a_timed_replay_keeps_the_times_of_recording(tmp_path):
    source = open_source(numbered_bag(tmp_path / "bag"))
    assert source.is_live
    source.open()
    frames = read_all(source)
    source.close()
    dues = [frame.captured_ns for frame in frames]
    numbers = [number_of(frame.image) for frame in frames]
    assert len(frames) + source.skipped == 8
    assert [due - dues[0] for due in dues] == [
        (number - numbers[0]) * PERIOD_NS for number in numbers
    ]
    assert all(frame.received_ns >= frame.captured_ns for frame in frames)


def test_images_that_nobody_took_are_skipped(tmp_path):
    source = open_source(numbered_bag(tmp_path / "bag", 30))
    source.open()
    stop = threading.Event()
    first = source.read(stop)
    time.sleep(10 * PERIOD_NS / 1e9)
    second = source.read(stop)
    assert number_of(second.image) - number_of(first.image) - 1 == source.skipped >= 8
    assert second.captured_ns - first.captured_ns == second.stamp_ns - first.stamp_ns
    assert second.index == 1
    source.close()


def test_a_recording_begins_again(tmp_path):
    path = numbered_bag(tmp_path / "bag", 3)
    for replay in ("fast", "timed"):
        source = open_source(path, SourceOptions(replay=replay, loop=True))
        source.open()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frames = read_all(source, most=8)
        source.close()
        assert source.jumps == 0
        numbers = [number_of(frame.image) for frame in frames]
        if replay == "fast":
            assert numbers == [0, 1, 2, 0, 1, 2, 0, 1]
        else:
            dues = np.diff([frame.captured_ns for frame in frames])
            assert (dues % PERIOD_NS == 0).all()
            assert (dues > 0).all()


def test_stamps_that_jump_back_are_delivered(tmp_path):
    stamps = [START_NS, START_NS - 10**9, START_NS + 1]
    path = write(
        tmp_path / "bag",
        [
            ("/a", IMAGE, START_NS + i, image_message(numbered(i), "rgb8", stamp))
            for i, stamp in enumerate(stamps)
        ],
    )
    source = open_source(path, FAST)
    source.open()
    with pytest.warns(UserWarning, match="jump back") as caught:
        assert [frame.stamp_ns for frame in read_all(source)] == stamps
    source.close()
    assert (source.jumps, len(caught)) == (1, 1)


def test_a_long_pause_of_a_recording_ends_with_stop(tmp_path):
    message = image_message(RGB, "rgb8", 1)
    path = write(tmp_path / "bag", [("/a", IMAGE, s * 10**9, message) for s in (1, 3600)])
    source, stop = open_source(path), threading.Event()
    source.open()
    assert source.read(stop) is not None
    threading.Timer(0.1, stop.set).start()
    begin = time.monotonic()
    assert source.read(stop) is None
    assert time.monotonic() - begin < 1
    source.close()


# Topics and bad recordings


def test_one_of_several_topics_is_chosen(tmp_path):
    message = image_message(RGB, "rgb8", 1)
    small = compressed_message(numbered(3), "png", 1)
    path = write(
        tmp_path / "bag",
        [
            ("/left/image", IMAGE, 1, message),
            ("/right/image/compressed", COMPRESSED, 2, small),
            ("/empty/image", IMAGE, 3, None),
            ("/text", TEXT, 3, types(TEXT)("hello")),
        ],
    )
    with pytest.raises(SourceError, match=r"/left/image \(1 of sensor_msgs/msg/Image\), /right/im"):
        open_source(path).open()
    right = open_source(path, SourceOptions(replay="fast", topic="/right/image/compressed"))
    right.open()
    assert [number_of(frame.image) for frame in read_all(right)] == [3]
    right.close()
    with nothing_left():
        with pytest.raises(SourceError, match="Did you mean '/left/image'"):
            open_source(path, SourceOptions(topic="/left/imag")).open()
        with pytest.raises(SourceError, match="/empty/image has no messages"):
            open_source(path, SourceOptions(topic="/empty/image")).open()


def test_a_topic_without_messages_is_no_choice(tmp_path):
    message = image_message(RGB, "rgb8", 1)
    path = write(tmp_path / "b", [("/a", IMAGE, 1, message), ("/b", IMAGE, 2, None)])
    source = open_source(path, FAST)
    source.open()
    assert len(read_all(source)) == 1
    source.close()


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        (types(TEXT)("hello"), TEXT, r"no topic with images.* found /a \(std_msgs/msg/String\)"),
        (image_message(RGB, "rgb16", 1), IMAGE, "an image of 'rgb16' cannot be read; have .*rgb8"),
        (image_message(RGB, "", 1), IMAGE, "an image of '' cannot be read"),
        (image_message(RGB, "rgb8", 1, size=(40, 6)), IMAGE, "72 bytes, expected 720"),
        (image_message(RGB, "rgb8", 1, size=(4, 60)), IMAGE, "rows of 18 bytes"),
        (
            types(COMPRESSED)(header(1), "16UC1; compressedDepth png", np.zeros(9, np.uint8)),
            COMPRESSED,
            "take the raw depth topic",
        ),
        (
            types(COMPRESSED)(header(1), "jpeg", np.zeros(9, np.uint8)),
            COMPRESSED,
            "an image of 'jpeg' cannot be read",
        ),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, message, kind: str, expected: str):
    source = open_source(write(tmp_path / "bag", [("/a", kind, 1, message)]), FAST)
    with nothing_left():
        with pytest.raises(SourceError, match=expected):
            source.open()


def test_damaged_recordings_are_errors_of_the_source(tmp_path):
    numbered_bag(tmp_path / "bag", 6)
    (whole,) = (tmp_path / "bag").glob("*.mcap")
    data = whole.read_bytes()
    for number, content in enumerate((b"", b"nonsense", data[:1000], b"\0" * 1000)):
        path = tmp_path / f"{number}.mcap"
        path.write_bytes(content)
        with nothing_left(), pytest.raises(SourceError, match=f"{number}.mcap"):
            open_source(str(path), FAST).open()
    for name in ("missing.mcap", "missing.db3", "missing.bag"):
        with pytest.raises(SourceError, match="no such recording"):
            open_source(str(tmp_path / name)).open()


def test_a_damaged_image_is_an_error_or_lost(tmp_path):
    good, bad = compressed_message(numbered(0), "png", 1), compressed_message(numbered(1), "png", 2)
    bad.data = bad.data[:60]
    messages = [good, bad, bad, compressed_message(numbered(3), "png", 4)]
    path = write(
        tmp_path / "bag",
        [("/a", COMPRESSED, START_NS + i * PERIOD_NS, one) for i, one in enumerate(messages)],
    )
    timed, fast = open_source(path), open_source(path, FAST)
    timed.open()
    with pytest.warns(UserWarning, match="it is lost") as caught:
        frames = read_all(timed)
    assert [(number_of(f.image), f.lost, f.index) for f in frames] == [(0, 0, 0), (3, 2, 1)]
    assert frames[1].captured_ns - frames[0].captured_ns == 3 * PERIOD_NS
    assert len(caught) == 1
    fast.open()
    stop = threading.Event()
    assert number_of(fast.read(stop).image) == 0
    with pytest.raises(SourceError, match="an image of 'rgb8; png"):
        fast.read(stop)
    for source in (timed, fast):
        source.close()


def test_a_recording_that_was_cut_off_gives_what_it_has(tmp_path):
    """A robot that loses power leaves a file without its index."""
    numbered_bag(tmp_path / "bag", 60)
    (whole,) = (tmp_path / "bag").glob("*.mcap")
    path = tmp_path / "cut.mcap"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    source, frames, stop = open_source(str(path), FAST), [], threading.Event()
    with nothing_left():
        try:
            source.open()
            while (frame := source.read(stop)) is not None:
                frames.append(number_of(frame.image))
        except SourceError:
            pass
        source.close()
    assert frames == list(range(len(frames)))


def test_a_folder_without_metadata_is_no_recording(tmp_path):
    numbered_bag(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with pytest.raises(SourceError, match="no images among"):
        open_source(str(tmp_path / "bag")).open()
    shutil.rmtree(tmp_path / "bag")
    with pytest.raises(SourceError, match="no such source"):
        open_source(str(tmp_path / "bag"))


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    source = open_source(numbered_bag(tmp_path / "bag"))
    monkeypatch.setitem(__import__("sys").modules, "rosbags", None)
    with pytest.raises(ConfigError, match=r"needs rosbags: pip install 'degmix-edge\[bags\]'"):
        source.open()
    with pytest.raises(ConfigError, match="rate_hz 5: this kind of source takes replay, loop, top"):
        open_source(source.name, SourceOptions(rate_hz=5))


def test_the_files_of_another_writer_are_read(tmp_path):
    """The `mcap` package's own writer, with chunks that lz4 or zstd compress."""
    pytest.importorskip("mcap")
    from mcap.writer import CompressionType
    from mcap.writer import Writer as OtherWriter
    from rosbags.typesys.store import Typestore

    assert isinstance(STORE, Typestore)
    text, _ = STORE.generate_msgdef(IMAGE, ros_version=2)
    for kind in (CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD):
        path = tmp_path / f"{kind.name}.mcap"
        with path.open("wb") as file:
            writer = OtherWriter(file, compression=kind)
            writer.start(profile="ros2", library="test")
            schema = writer.register_schema(IMAGE, "ros2msg", text.encode())
            channel = writer.register_channel("/cam", "cdr", schema)
            for number in range(3):
                message = image_message(numbered(number), "bgr8", number)
                raw = bytes(STORE.serialize_cdr(message, IMAGE))
                writer.add_message(channel, START_NS + number, raw, START_NS + number)
            writer.finish()
        source = open_source(str(path), FAST)
        source.open()
        frames = read_all(source)
        source.close()
        assert [number_of(frame.image) for frame in frames] == [0, 1, 2]
        assert {frame.format for frame in frames} == {"bgr"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_are_errors_of_the_source_or_other_pixels(tmp_path):
    """Nothing but a SourceError comes out of a damaged file, and nothing is left open."""
    numbered_bag(tmp_path / "bag", 3)
    (whole,) = (tmp_path / "bag").glob("*.mcap")
    data, path, rng = whole.read_bytes(), tmp_path / "x.mcap", np.random.default_rng(5)
    # The records around the images decide more than the images do.
    places = [i for i in range(len(data)) if i < 8000 or i > len(data) - 3000]
    num_read = 0
    with nothing_left():
        for _ in range(50):
            damaged = bytearray(data)
            for place in rng.choice(places, rng.integers(1, 4)):
                damaged[place] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            source = open_source(str(path), FAST)
            with contextlib.suppress(SourceError):
                source.open()
                num_read += len(read_all(source))
            source.close()
    assert num_read > 0
