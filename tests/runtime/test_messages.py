"""Task maps as fields of ROS messages."""

import numpy as np
import pytest

from degmix_edge import tasks
from degmix_edge.errors import InputError
from degmix_edge.preprocess import Fit, fit_intrinsics, place
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.messages import (
    camera_content,
    class_map,
    frame_content,
    group,
    map_content,
    map_topic,
    seconds_and_rest,
)
from degmix_edge.tasks import TaskSpec

HEIGHT, WIDTH = 4, 6


def as_map(array: np.ndarray, spec: TaskSpec) -> TaskMap:
    return TaskMap(array, spec, place(HEIGHT, WIDTH, Fit(height=HEIGHT, width=WIDTH)))


def spec_of(task: str, **changes) -> TaskSpec:
    classes = changes.pop("classes", ("wall", "floor") if task in ("semseg", "multi_label") else ())
    return tasks.find(task).spec(classes).model_copy(update=changes)


def random_map(spec: TaskSpec) -> TaskMap:
    shape = spec.map_spec(HEIGHT, WIDTH).shape[1:]
    dtype = spec.map_spec(HEIGHT, WIDTH).dtype
    values = np.random.default_rng(0).random(shape)
    return as_map((values * spec.num_channels if spec.has_labels else values).astype(dtype), spec)


@pytest.mark.parametrize(
    ("name", "encoding", "dtype"),
    [
        ("semseg", "mono8", np.uint8),
        ("edge", "mono8", np.uint8),
        ("depth", "32FC1", np.float32),
        ("normals", "32FC3", np.float32),
        ("flow", "32FC2", np.float32),
        ("multi_label", "32FC2", np.float32),
    ],
)
def test_each_kind_of_map_has_its_encoding_and_packed_rows(name, encoding, dtype):
    task_map = random_map(spec_of(name))
    content = map_content(task_map)
    assert (content.encoding, content.array.dtype) == (encoding, dtype)
    assert (content.height, content.width) == (HEIGHT, WIDTH)
    channels = 1 if task_map.ndim == 2 else task_map.shape[2]
    assert content.step == WIDTH * channels * np.dtype(dtype).itemsize
    assert content.data.nbytes == HEIGHT * content.step
    if dtype == np.float32 or name == "semseg":
        back = content.data.view(dtype).reshape(task_map.shape)
        np.testing.assert_array_equal(back, task_map)


def test_a_map_that_is_a_view_is_packed():
    wide = np.arange(HEIGHT * 20, dtype=np.float32).reshape(HEIGHT, 20)
    content = map_content(as_map(wide[:, 3 : 3 + WIDTH], spec_of("depth")))
    np.testing.assert_array_equal(content.data.view(np.float32), wide[:, 3:9].ravel())


def test_many_classes_have_16_bits():
    spec = spec_of("semseg", classes=tuple(map(str, range(300))))
    content = map_content(as_map(np.full((HEIGHT, WIDTH), 299, np.uint16), spec))
    assert content.encoding == "mono16"
    assert content.data.view(np.uint16)[0] == 299
    assert class_map(spec)[299] == (299, "299")


def test_unknown_depth_is_nan_and_a_probability_has_none():
    values = np.array([[np.nan, 0.0, 0.5, 1.0]], np.float32)
    for name in ("depth", "inverse_depth"):
        found = map_content(as_map(values, spec_of(name))).array
        np.testing.assert_array_equal(found, [[np.nan, np.nan, 0.5, 1.0]])
    assert map_content(as_map(values, spec_of("edge"))).array.tolist() == [[0, 0, 128, 255]]


def test_topics_are_those_of_nav2_and_never_claim_metres_that_are_none():
    names = ("semseg", "confidence", "depth")
    network = [spec_of(name) for name in names]
    assert [map_topic(task, network) for task in network] == [
        "segmentation/mask",
        "segmentation/confidence",
        "depth/image",
    ]
    assert map_topic(spec_of("confidence"), [spec_of("confidence")]) == "confidence/image"
    assert group(spec_of("inverse_depth")) == "inverse_depth_relative"
    assert group(spec_of("inverse_depth", scale=2.5)) == "inverse_depth"
    assert group(spec_of("depth", unit="")) == "depth_relative"
    assert group(spec_of("depth", name="2d.depth-x")) == "_2d_depth_x"


def test_classes_without_names_have_numbers():
    spec = spec_of("semseg").model_copy(update={"classes": (), "palette": ()})
    assert class_map(spec) == [(0, "class 0"), (1, "class 1")]


@pytest.mark.parametrize(
    ("kind", "shape", "encoding", "step"),
    [
        ("rgb", (4, 6, 3), "rgb8", 18),
        ("bgr", (4, 6, 3), "bgr8", 18),
        ("nv12", (6, 6), "nv12", 6),
        ("yuyv", (4, 6, 2), "yuv422_yuy2", 12),
    ],
)
def test_a_frame_is_what_the_camera_wrote(kind, shape, encoding, step):
    content = frame_content(np.zeros(shape, np.uint8), kind)
    assert (content.encoding, content.height, content.width, content.step) == (encoding, 4, 6, step)
    with pytest.raises(InputError, match="got uint8"):
        frame_content(np.zeros((5, 5, 5), np.uint8), kind)


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
def test_a_point_falls_on_the_pixel_of_the_map_that_shows_it(mode):
    """Projected into the map, a point is where resizing moves its pixel of the image."""
    matrix = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    fit = Fit(height=96, width=160, mode=mode)
    placed = place(480, 640, fit)
    found = camera_content(matrix, placed)
    assert (found.height, found.width) == (placed.height, placed.width)
    np.testing.assert_array_equal(found.projection[:, :3], found.matrix)
    # The exact rule has half a pixel of the map for half a pixel of the image.
    exact = fit_intrinsics(matrix, placed)
    exact[:2, 2] -= placed.left, placed.top
    for point in np.array([[0.2, -0.1, 2.0], [-0.5, 0.3, 1.5]]):
        ours, true = ((m @ point / point[2])[:2] for m in (found.matrix, exact))
        np.testing.assert_allclose(ours, true, atol=0.5)
    np.testing.assert_allclose(found.matrix[:2, :2], exact[:2, :2])


def test_stamps():
    assert seconds_and_rest(1_700_000_000_123_456_789) == (1_700_000_000, 123_456_789)
    assert seconds_and_rest(None) == (0, 0)
