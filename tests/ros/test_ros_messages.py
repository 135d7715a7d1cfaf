"""Task maps as ROS messages, which rosbags reads; calibrations are checked by projecting points."""

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from degmix_edge import tasks
from degmix_edge.preprocess import Fit, place
from degmix_edge.ros.messages import (
    camera_info,
    cloud,
    depth_values,
    fits_image,
    image_message,
    is_calibrated,
    label_info,
    view_message,
)
from degmix_edge.ros.types import CameraInfo, Header, RegionOfInterest, Time, as_ros
from degmix_edge.runtime.maps import Maps
from degmix_edge.runtime.messages import DEFINITIONS, group, map_topic
from degmix_edge.tasks import TaskSpec

HEADER = Header(Time(1_700_000_000, 123_456_789), "camera_optical")
CLASSES = ("background", "floor", "person")
RNG = np.random.default_rng(0)
IMAGE_SIZES = [(480, 640), (720, 1280), (96, 64)]


def spec(task, **changes):
    return tasks.find(task).spec(CLASSES if task == "semseg" else ()).model_copy(update=changes)


def raw_of(one: TaskSpec, height: int, width: int) -> np.ndarray:
    """A whole map as a backend gives it, with a batch of one."""
    shape = one.map_spec(height, width).shape
    if one.has_labels:
        return RNG.integers(0, one.num_channels, shape).astype(one.map_spec(1, 1).dtype)
    return RNG.uniform(0, 1 if one.unit == "probability" else 8, shape).astype(np.float32)


def task_map(one, image=(480, 640), mode="letterbox", size=(64, 96)):
    height, width = size
    placed = place(*image, Fit(height=height, width=width, mode=mode))
    return Maps.of({one.name: raw_of(one, *size)}, [one], placed)[one.name]


def pixels(message):
    kind = {"mono8": "u1", "mono16": "<u2", "rgb8": "u1"}.get(message.encoding, "<f4")
    channels = 3 if message.encoding == "rgb8" else 1
    if message.encoding.startswith("32FC"):
        channels = int(message.encoding[4:])
    item = np.dtype(kind).itemsize * channels
    assert message.step == message.width * item, "rows are packed"
    array = np.frombuffer(message.data.tobytes(), kind)
    return array.reshape(message.height, message.width, channels).squeeze(
        -1 if channels == 1 else ()
    )


def info_of(height, width, **changes):
    k = np.array([0.8 * width, 0, 0.47 * width, 0, 0.9 * width, 0.55 * height, 0, 0, 1])
    p = np.insert(k.reshape(3, 3), 3, [-30.0, 0, 0], axis=1).ravel()
    fields = {"height": height, "width": width, "distortion_model": "plumb_bob"}
    fields |= {"d": np.array([0.1, -0.2, 0, 0, 0]), "k": k, "r": np.eye(3).ravel(), "p": p}
    return CameraInfo(HEADER, **{**fields, **changes})


def projected(matrix, points):
    homogeneous = np.c_[points, np.ones(len(points))][:, : matrix.shape[1]] @ matrix.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


POINTS = RNG.uniform((-2, -1, 1), (2, 1, 8), (200, 3))


@pytest.mark.parametrize(
    ("one", "encoding", "topic"),
    [
        (spec("semseg"), "mono8", "segmentation/mask"),
        (spec("human_parts"), "mono8", "human_parts/mask"),
        (spec("depth"), "32FC1", "depth/image"),
        (spec("depth", unit="relative"), "32FC1", "depth_relative/image"),
        (spec("inverse_depth"), "32FC1", "inverse_depth_relative/image"),
        (spec("inverse_depth", scale=4.2), "32FC1", "inverse_depth/image"),
        (spec("uncertainty"), "32FC1", "uncertainty/image"),
        (spec("normals"), "32FC3", "normals/image"),
        (spec("flow"), "32FC2", "flow/image"),
        (spec("edge"), "mono8", "edge/image"),
        (spec("saliency"), "mono8", "saliency/image"),
        (spec("confidence"), "mono8", "confidence/image"),
        (spec("edge", name="2nd-edge.v1"), "mono8", "_2nd_edge_v1/image"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_task_has_its_encoding_and_its_topic(one, encoding, topic):
    made = image_message(values := task_map(one), HEADER)
    assert (made.encoding, map_topic(one, [one])) == (encoding, topic)
    assert (made.header.stamp.sec, made.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert (made.height, made.width) == values.shape[:2]
    expected = np.asarray(values)
    if one.unit == "probability":
        expected = np.rint(expected * 255)
        assert np.abs(pixels(made) - expected).max() <= 1
    else:
        np.testing.assert_array_equal(pixels(made), expected)


def test_confidence_lies_beside_the_mask_that_it_belongs_to():
    both = [spec("semseg"), spec("confidence")]
    assert map_topic(both[1], both) == "segmentation/confidence"


def test_more_than_256_classes_have_two_bytes():
    names = tuple(f"c{i}" for i in range(300))
    one = tasks.find("semseg").spec(names)
    values = task_map(one)
    made = image_message(values, HEADER)
    assert made.encoding == "mono16"
    np.testing.assert_array_equal(pixels(made), np.asarray(values))
    assert [c.class_name for c in label_info(one, HEADER).class_map] == list(names)


def test_depth_that_is_no_distance_is_nan():
    values = task_map(spec("depth"))
    values[0, :3] = 0, -1, np.inf
    shown = pixels(image_message(values, HEADER))
    assert np.isnan(shown[0, :2]).all()
    assert shown[0, 2] == np.inf
    assert np.isfinite(shown[1:]).all()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("native", [False, True])
def test_a_stride_takes_pixels_and_never_means(native, stride):
    values = task_map(spec("semseg"), image=(97, 150))
    made = image_message(values, HEADER, native=native, stride=stride)
    whole = values.at_image_size() if native else np.asarray(values)
    np.testing.assert_array_equal(pixels(made), whole[::stride, ::stride])


def test_pixels_that_a_cropping_network_does_not_see_have_no_value():
    cut = {"image": (60, 200), "mode": "crop"}
    mask = pixels(image_message(task_map(spec("semseg"), **cut), HEADER, native=True))
    depth = pixels(image_message(task_map(spec("depth"), **cut), HEADER, native=True))
    edge = pixels(image_message(task_map(spec("edge"), **cut), HEADER, native=True))
    assert mask.shape == depth.shape == edge.shape == (60, 200)
    assert (mask[:, 0] == 255).all()
    assert np.isnan(depth[:, 0]).all()
    assert not edge[:, 0].any()


@pytest.mark.parametrize("image", IMAGE_SIZES)
@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_point_falls_on_the_map_where_it_falls_on_the_image(image, mode, native, stride):
    values = task_map(spec("depth"), image, mode)
    info = info_of(*image)
    scaled = camera_info(info, values, HEADER, native=native, stride=stride)
    message = image_message(values, HEADER, native=native, stride=stride)
    assert (scaled.height, scaled.width) == (message.height, message.width)
    top, left, rows, columns = values.placement.window or (0, 0, *image)
    shape = values.shape
    if native:
        top, left, (rows, columns), shape = 0, 0, image, image
    for name in ("k", "p"):
        on_image = projected(getattr(info, name).reshape(3, -1), POINTS)
        on_map = projected(getattr(scaled, name).reshape(3, -1), POINTS)
        expected = (on_image - (left, top)) * (shape[1] / columns, shape[0] / rows) / stride
        np.testing.assert_allclose(on_map, expected, atol=1e-9)
    np.testing.assert_array_equal(scaled.d, info.d)
    np.testing.assert_array_equal(scaled.r, info.r)
    assert scaled.roi == RegionOfInterest()


def test_the_region_and_binning_of_the_camera_are_undone_once():
    """As image_geometry does it: the offset is subtracted, and the rest is divided."""
    roi = RegionOfInterest(x_offset=100, y_offset=60, height=480, width=640)
    info = info_of(960, 1280, roi=roi, binning_x=2, binning_y=2)
    assert fits_image(info, 240, 320)
    assert not fits_image(info, 960, 1280)
    scaled = camera_info(info, task_map(spec("depth"), (240, 320), "stretch"), HEADER)
    on_full = projected(info.p.reshape(3, 4), POINTS)
    on_map = projected(scaled.p.reshape(3, 4), POINTS)
    np.testing.assert_allclose(on_map, (on_full - (100, 60)) / 2 * (96 / 320, 64 / 240), atol=1e-9)
    assert (scaled.binning_x, scaled.binning_y) == (0, 0)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_cloud_has_a_point_for_each_pixel_of_the_mask_and_projects_onto_it(native, stride):
    mask = task_map(spec("semseg", stride=2), mode="crop")
    depth = task_map(spec("depth"), mode="crop")
    sampled = depth_values(depth, mask, native=native, stride=stride)
    labels = image_message(mask, HEADER, native=native, stride=stride)
    info = camera_info(info_of(480, 640), mask, HEADER, native=native, stride=stride)
    made = cloud(sampled, info)
    assert (made.height, made.width) == (labels.height, labels.width)
    points = np.frombuffer(made.data.tobytes(), np.float32).reshape(made.height, made.width, 3)
    np.testing.assert_array_equal(points[..., 2], sampled)
    v, u = np.mgrid[: made.height, : made.width]
    is_known = np.isfinite(sampled)
    # The fourth column belongs to the other camera of a pair; depth is that of this one.
    found = projected(info.p.reshape(3, 4)[:, :3], points[is_known].astype(np.float64))
    np.testing.assert_allclose(found, np.c_[u[is_known], v[is_known]], atol=1e-3)


def test_a_camera_without_calibration_is_recognised():
    assert is_calibrated(info_of(4, 4))
    assert not is_calibrated(info_of(4, 4, k=np.zeros(9), p=np.zeros(12)))


def test_a_view_has_the_colours_of_the_map():
    values = task_map(spec("normals"))
    np.testing.assert_array_equal(pixels(view_message(values, HEADER)), values.colour())


@pytest.mark.parametrize("store", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.LATEST])
def test_rosbags_writes_and_reads_every_message(store):
    types = get_typestore(store)
    for name, text in DEFINITIONS.items():
        types.register(get_types_from_msg(text, name))
    mask, depth = task_map(spec("semseg")), task_map(spec("depth"))
    info = camera_info(info_of(480, 640), mask, HEADER)
    made = [image_message(mask, HEADER), image_message(depth, HEADER), info]
    made += [cloud(depth_values(depth, mask), info), label_info(mask.spec, HEADER)]
    for message in made:
        real = as_ros(message, types.types.__getitem__)
        wire = types.serialize_cdr(real, message.ros_type)
        back = types.deserialize_cdr(wire, message.ros_type)
        assert back.header.frame_id == "camera_optical"
        assert back.header.stamp.nanosec == 123_456_789
        for field in ("data", "k", "p", "d"):
            if hasattr(message, field):
                np.testing.assert_array_equal(getattr(back, field), getattr(message, field))
    assert [one.class_name for one in back.class_map] == list(CLASSES)


def test_groups_of_topics_are_names_that_ros_takes():
    assert group(spec("depth", name="tiefe-é")) == "tiefe__"
