"""Task maps as ROS messages: data that other nodes compute with, and no pictures.

The encodings follow REP 117 and 118 and what Nav2's semantic segmentation layer reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from degmix_edge.ros.types import (
    CameraInfo,
    Header,
    Image,
    LabelInfo,
    PointCloud2,
    PointField,
    Time,
    VisionClass,
)
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.results import StreamResult
from degmix_edge.tasks import TaskSpec, colour

SEGMENTATION = "segmentation"
"""The group of topics that Nav2's segmentation node has."""
FLOAT32 = 7
"""The type float32 in a `PointField`."""


def header_of(result: StreamResult) -> Header:
    """Return the header of everything that is made of a frame: its own stamp and frame."""
    return Header(Time.of(result.stamp_ns), result.frame.frame_id)


def is_depth(spec: TaskSpec) -> bool:
    """Whether the values are distances along the optical axis, of whatever unit."""
    return spec.metric == "rmse" and not spec.components


def is_metric(spec: TaskSpec) -> bool:
    """Whether a depth is in metres. The inverse of a network's output has a scale only if given."""
    return spec.unit == "m" and not (spec.decode == "reciprocal" and spec.scale == 1)


def is_probability(spec: TaskSpec) -> bool:
    """Whether a pixel is one probability."""
    return spec.decode in ("sigmoid", "foreground") and not spec.components


def group(spec: TaskSpec) -> str:
    """Return the first part of a task's topics.

    It is `segmentation` for the task `semseg`, as in Nav2, and `depth_relative` for depth without
    metres, so that nobody takes it for distances. Other tasks have their own name.
    """
    if spec.name == "semseg":
        return SEGMENTATION
    name = re.sub(r"[^A-Za-z0-9_]", "_", spec.name)
    name = f"_{name}" if name[0].isdigit() else name
    return f"{name}_relative" if is_depth(spec) and not is_metric(spec) else name


def map_topic(spec: TaskSpec, tasks: Iterable[TaskSpec]) -> str:
    """Return the topic of a task's map, without the node's namespace.

    Args:
        spec: The task.
        tasks: All tasks of the network. A task `confidence` beside `semseg` goes into its group.
    """
    if spec.name == "confidence" and any(task.name == "semseg" for task in tasks):
        return f"{SEGMENTATION}/confidence"
    return f"{group(spec)}/{'mask' if spec.has_labels else 'image'}"


def image_message(
    task_map: TaskMap, header: Header, *, native: bool = False, stride: int = 1
) -> Image:
    """Return a map as an image.

    Class indices are `mono8`, or `mono16` where there are more than 256 classes. A probability is
    `mono8` from 0 to 255. Depth is `32FC1`, and NaN where it is unknown. Other values are float32
    with as many channels as a pixel has numbers: normals are `32FC3`, and flow is `32FC2`.

    Args:
        task_map: The whole map of a task; not of a raw one.
        header: The header of the camera's image.
        native: At the camera image's size instead of the network's.
        stride: One pixel of so many in each direction: every other one for 2, and never a mean.
    """
    spec = task_map.spec
    values = _sampled(task_map, native=native, stride=stride)
    if spec.has_labels:
        return _image(values, "mono8" if values.dtype == np.uint8 else "mono16", header)
    if is_probability(spec):
        return _image(_bytes(values), "mono8", header)
    if is_depth(spec):
        values = _known(values)
    return _image(values, f"32FC{values.shape[2] if values.ndim == 3 else 1}", header)


def view_message(
    task_map: TaskMap, header: Header, *, native: bool = False, stride: int = 1
) -> Image:
    """Return a map as a picture for people, `rgb8`; the arguments are those of `image_message`."""
    values = _sampled(task_map, native=native, stride=stride)
    return _image(colour(values, task_map.spec), "rgb8", header)


def label_info(spec: TaskSpec, header: Header) -> LabelInfo:
    """Return the class names of a task with labels. Classes without a name are `class 3`."""
    names = spec.classes or tuple(f"class {index}" for index in range(spec.num_channels))
    return LabelInfo(header, tuple(VisionClass(i, name) for i, name in enumerate(names)))


def is_calibrated(info: CameraInfo) -> bool:
    """Whether a camera's calibration is known; a driver without one sends zeros."""
    return bool(info.k[0] > 0 and info.k[4] > 0)


def fits_image(info: CameraInfo, height: int, width: int) -> bool:
    """Whether a calibration is of images of this size, after its region and its binning."""
    rows, columns = info.roi.height or info.height, info.roi.width or info.width
    return (rows // max(1, info.binning_y), columns // max(1, info.binning_x)) == (height, width)


def camera_info(
    info: CameraInfo, task_map: TaskMap, header: Header, *, native: bool = False, stride: int = 1
) -> CameraInfo:
    """Return the calibration of a map, given that of the camera's image.

    This is the rule of image_proc's resize node: `k` and `p` are scaled, and the half pixel between
    the centres is left out. The part that the network does not see is cut off first. So are the
    region and the binning of the camera's image: the result describes the map alone.
    """
    placed = task_map.placement
    whole = (0, 0, placed.image_height, placed.image_width)
    top, left, rows, columns = whole if native else placed.window or whole
    height, width = whole[2:] if native else task_map.shape[:2]
    move = _move((height / rows / stride, width / columns / stride), (top, left)) @ _whole(info)
    k, p = move @ info.k.reshape(3, 3), move @ info.p.reshape(3, 4)
    size = -(-height // stride), -(-width // stride)
    model = info.distortion_model
    return CameraInfo(header, *size, model, info.d, k.ravel(), info.r, p.ravel())


def intrinsics(info: CameraInfo) -> np.ndarray:
    """Return the camera matrix `(3, 3)` in pixels of the camera's image itself."""
    return np.asarray(_whole(info) @ info.k.reshape(3, 3))


def mask_of(maps: Mapping[str, TaskMap], own: TaskMap) -> TaskMap:
    """Return the map that a cloud of `own` is read with: a semantic mask of the same image size."""
    for one in maps.values():
        places = one.placement, own.placement
        is_same = len({(place.image_height, place.image_width) for place in places}) == 1
        if one.spec.name == "semseg" and is_same:
            return one
    return own


def depth_values(
    depth: TaskMap, like: TaskMap, *, native: bool = False, stride: int = 1
) -> np.ndarray:
    """Return the metres of a depth map at the pixels of another map's message, float32.

    A cloud must have as many points as the mask that it is read with has pixels. Where the two maps
    differ in size, the nearest pixel is taken.
    """
    size = _sampled(like, native=native, stride=1).shape[:2]
    values = _known(_sampled(depth, native=native, stride=1))
    if values.shape != size:
        rows, columns = (
            ((np.arange(count) + 0.5) * have / count).astype(np.intp)
            for count, have in zip(size, values.shape, strict=True)
        )
        values = values[rows[:, None], columns]
    return values[::stride, ::stride]


def cloud(depth: np.ndarray, info: CameraInfo) -> PointCloud2:
    """Return an organised cloud of a depth image: one point for each pixel, row by row.

    Args:
        depth: Metres along the optical axis, float32 `(H, W)`. What is not finite gives NaN.
        info: The calibration of this depth image, which has the same size.
    """
    height, width = depth.shape
    matrix = info.p.reshape(3, 4)[:, :3] if info.p[0] > 0 else info.k.reshape(3, 3)
    points = np.empty((height, width, 3), np.float32)
    z = np.where(np.isfinite(depth), depth, np.float32(np.nan))
    across = (np.arange(width) - matrix[0, 2]) / matrix[0, 0]
    down = (np.arange(height) - matrix[1, 2]) / matrix[1, 1]
    points[..., 0] = across.astype(np.float32) * z
    points[..., 1] = down.astype(np.float32)[:, None] * z
    points[..., 2] = z
    fields = tuple(PointField(name, 4 * i, FLOAT32) for i, name in enumerate("xyz"))
    data = points.reshape(-1).view(np.uint8)
    return PointCloud2(info.header, height, width, fields, False, 12, 12 * width, data, False)


def _sampled(task_map: TaskMap, *, native: bool, stride: int) -> np.ndarray:
    values = task_map.at_image_size() if native else np.asarray(task_map)
    return values if stride == 1 else values[::stride, ::stride]


def _known(depth: np.ndarray) -> np.ndarray:
    """Depth with NaN where the network gives zero or less, which is no distance."""
    return np.asarray(np.where(depth > 0, depth, np.float32(np.nan)))


def _bytes(probability: np.ndarray) -> np.ndarray:
    """A probability as 0 to 255, rounded; where there is none it is 0."""
    return np.asarray(np.nan_to_num(probability) * np.float32(255) + np.float32(0.5), np.uint8)


def _image(values: np.ndarray, encoding: str, header: Header) -> Image:
    height, width = values.shape[:2]
    order = values.dtype.newbyteorder("<")
    data = np.ascontiguousarray(values, order).reshape(-1).view(np.uint8)
    return Image(header, height, width, encoding, 0, len(data) // height, data)


def _whole(info: CameraInfo) -> np.ndarray:
    """The matrix from pixels of the full picture to those of the image: its region and binning."""
    down, across = 1 / max(1, info.binning_y), 1 / max(1, info.binning_x)
    return _move((down, across), (info.roi.y_offset, info.roi.x_offset))


def _move(scale: tuple[float, float], offset: tuple[float, float]) -> np.ndarray:
    """The matrix that subtracts an offset in pixels and scales the rest; both are y, x."""
    (down, across), (top, left) = scale, offset
    return np.array([[across, 0, -left * across], [0, down, -top * down], [0, 0, 1]])
