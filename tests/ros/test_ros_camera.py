"""Images of ROS as a stream takes them. The messages are those of rosbags."""

import io
import time

import numpy as np
import PIL.Image
import pytest
from rosbags.typesys import Stores, get_typestore

from degmix_edge.camera import to_rgb
from degmix_edge.capture._ros_image import image_of
from degmix_edge.errors import InputError
from degmix_edge.ros.camera import OLDEST_NS, calibration_of, captured_ns, stamp_ns
from degmix_edge.ros.messages import fits_image, intrinsics, is_calibrated, mask_of
from degmix_edge.ros.types import CameraInfo, Header, Image, RegionOfInterest, Time, as_ros

TYPES = get_typestore(Stores.LATEST).types
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 8, 3), np.uint8)
HEADER = Header(Time(12, 345), "optical")


def message(encoding, array, *, gap=0, is_bigendian=0):
    """An Image whose rows have so many bytes of padding."""
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
    padded = np.pad(rows, ((0, 0), (0, gap)), constant_values=77)
    height, width = array.shape[:2]
    data = padded.ravel()
    plain = Image(HEADER, height, width, encoding, is_bigendian, padded.shape[1], data)
    return as_ros(plain, TYPES.__getitem__)


@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "array"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[..., ::-1]),
        ("8UC3", PICTURE[..., ::-1]),
        ("rgba8", np.dstack([PICTURE, np.full((6, 8), 255, np.uint8)])),
        ("bgra8", np.dstack([PICTURE[..., ::-1], np.full((6, 8), 255, np.uint8)])),
    ],
)
def test_colours_in_any_order(encoding, array, gap):
    image, kind = image_of(message(encoding, array, gap=gap))
    np.testing.assert_array_equal(to_rgb(image, kind), PICTURE)


def test_grey_is_repeated():
    grey = PICTURE[..., 0]
    image, kind = image_of(message("mono8", grey))
    np.testing.assert_array_equal(to_rgb(image, kind), np.dstack([grey] * 3))


def test_depth_is_metres_whatever_it_was():
    """REP 118: whole numbers are millimetres."""
    millimetres = RNG.integers(0, 9000, (6, 8)).astype(np.uint16)
    little, _ = image_of(message("16UC1", millimetres))
    big, _ = image_of(message("16UC1", millimetres.astype(">u2"), is_bigendian=1))
    metres, _ = image_of(message("32FC1", (millimetres / 1000).astype(np.float32)))
    for found in (little, big, metres):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, millimetres / 1000, rtol=1e-6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_compressed_images(kind):
    buffer = io.BytesIO()
    PIL.Image.fromarray(PICTURE).save(buffer, kind)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    header = as_ros(HEADER, TYPES.__getitem__)
    made = TYPES["sensor_msgs/msg/CompressedImage"](header=header, format=kind.lower(), data=data)
    image, _ = image_of(made)
    assert image.size == (8, 6)
    if kind == "PNG":
        np.testing.assert_array_equal(np.asarray(image), PICTURE)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (message("rgb16", PICTURE), "'rgb16' cannot be read; have rgb8, bgr8"),
        (message("rgb8", PICTURE[:, :4]), None),
    ],
)
def test_what_cannot_be_read_is_refused(made, text):
    if text is None:
        made.width, text = 8, "rows of 12 bytes"
    with pytest.raises(InputError, match=text):
        image_of(made)


@pytest.mark.parametrize(
    ("format", "data"), [("32FC1; compressedDepth png", b"x"), ("jpeg", b"no picture")]
)
def test_compressed_data_that_is_no_picture_is_refused(format, data):
    header = as_ros(HEADER, TYPES.__getitem__)
    kind = TYPES["sensor_msgs/msg/CompressedImage"]
    with pytest.raises(InputError, match="an image of"):
        image_of(kind(header=header, format=format, data=np.frombuffer(data, np.uint8)))


def test_the_moment_of_a_stamp_is_known_only_by_this_machines_clock():
    now = 1_700_000_000 * 10**9
    before = time.monotonic_ns()
    captured = captured_ns(now - 40_000_000, now)
    assert before - 40_000_000 <= captured <= time.monotonic_ns() - 40_000_000
    assert captured_ns(now + 1, now) is None, "in the future"
    assert captured_ns(now - OLDEST_NS, now) is None, "a recording"
    assert captured_ns(0, now) is None, "no stamp"
    assert stamp_ns(as_ros(HEADER, TYPES.__getitem__)) == 12_000_000_345


def test_a_calibration_survives_the_way_into_plain_data():
    k = np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1])
    p = np.array([500.0, 0, 320, 0, 0, 510, 240, 0, 0, 0, 1, 0])
    roi = RegionOfInterest(x_offset=100, y_offset=40, height=400, width=400)
    d, r = np.arange(5.0), np.eye(3).ravel()
    info = CameraInfo(HEADER, 480, 640, "plumb_bob", d, k, r, p, 2, 2, roi)
    back = calibration_of(as_ros(info, TYPES.__getitem__))
    for name in ("d", "k", "r", "p"):
        np.testing.assert_array_equal(getattr(back, name), getattr(info, name))
    assert (back.roi, back.binning_x, back.header) == (roi, 2, HEADER)
    assert is_calibrated(back)
    assert fits_image(back, 200, 200)
    expected = [[250, 0, 110], [0, 255, 100], [0, 0, 1]]
    np.testing.assert_allclose(intrinsics(back), expected)


def test_a_cloud_is_read_with_the_mask_of_its_image(bundles, pictures):
    import degmix_edge

    with degmix_edge.load(bundles["fp32"].path, threads=1) as session:
        maps, other = session(pictures[0]), session(pictures[0][:32])
    assert mask_of(maps, maps["depth"]) is maps["semseg"]
    assert mask_of({"semseg": other["semseg"]}, maps["depth"]) is maps["depth"]
    assert mask_of({}, maps["depth"]) is maps["depth"]
