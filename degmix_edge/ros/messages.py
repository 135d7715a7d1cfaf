"""Task maps as ROS messages: data that other nodes compute with, and no pictures.

The encodings follow REP 117 and 118 and what Nav2's semantic segmentation layer reads.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from degmix_edge.runtime.messages import (
    SEMANTIC,
    ImageContent,
    class_map,
    frame_content,
    known_depth,
    map_content,
    seconds_and_rest,
)
from degmix_edge.runtime.results import StreamResult
from degmix_edge.tasks import TaskSpec, colour

FLOAT32 = 7
"""The type float32 in a `PointField`."""


def header_of(result: StreamResult) -> Header:
    """Return the header of everything that is made of a frame: its own stamp and frame."""
    return Header(Time(*seconds_and_rest(result.stamp_ns)), result.frame.frame_id)


def image_message(
    task_map: TaskMap, header: Header, *, native: bool = False, stride: int = 1
) -> Image:
    """Return a map as an image.

    Its encoding is that of `map_content`.

    Args:
        task_map: The whole map of a task; not of a raw one.
        header: The header of the camera's image.
        native: At the camera image's size instead of the network's.
        stride: One pixel of so many in each direction: every other one for 2, and never a mean.
    """
    values = _sampled(task_map, native=native, stride=stride)
    return _image(map_content(TaskMap(values, task_map.spec, task_map.placement)), header)


def view_message(
    task_map: TaskMap, header: Header, *, native: bool = False, stride: int = 1
) -> Image:
    """Return a map as a picture for people, `rgb8`; the arguments are those of `image_message`."""
    values = _sampled(task_map, native=native, stride=stride)
    return _image(frame_content(colour(values, task_map.spec), "rgb"), header)


def label_info(spec: TaskSpec, header: Header) -> LabelInfo:
    """Return the class names of a task with labels."""
    return LabelInfo(header, tuple(VisionClass(*one) for one in class_map(spec)))


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
        if one.spec.name == SEMANTIC and is_same:
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
    values = known_depth(_sampled(depth, native=native, stride=1))
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


def _image(content: ImageContent, header: Header) -> Image:
    size, order = (content.height, content.width), content.is_bigendian
    return Image(header, *size, content.encoding, order, content.step, content.data)


def _whole(info: CameraInfo) -> np.ndarray:
    """The matrix from pixels of the full picture to those of the image: its region and binning."""
    down, across = 1 / max(1, info.binning_y), 1 / max(1, info.binning_x)
    return _move((down, across), (info.roi.y_offset, info.roi.x_offset))


def _move(scale: tuple[float, float], offset: tuple[float, float]) -> np.ndarray:
    """The matrix that subtracts an offset in pixels and scales the rest; both are y, x."""
    (down, across), (top, left) = scale, offset
    return np.array([[across, 0, -left * across], [0, down, -top * down], [0, 0, 1]])
