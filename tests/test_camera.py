"""Formats of cameras against the formula of BT.601, and against OpenCV where it is installed."""

import numpy as np
import pytest

from degmix_edge import camera
from degmix_edge.errors import ConfigError, InputError


def by_the_formula(y, u, v):
    """BT.601 of limited range, in float64, unrounded."""
    y, u, v = (255 / 219 * (y - 16.0)).clip(0), (u - 128.0) / 112, (v - 128.0) / 112
    red, blue = 0.701 * v, 0.886 * u
    green = -(0.299 * red + 0.114 * blue) / 0.587
    return np.stack([y + 255 * colour for colour in (red, green, blue)], -1).clip(0, 255)


def test_every_colour_is_that_of_the_formula():
    y, u, v = np.meshgrid(*[np.r_[0:256:5].astype(np.uint8)] * 3, indexing="ij")
    width = y.size
    packed = np.empty((1, 2 * width, 2), np.uint8)
    packed[0, :, 0], packed[0, ::2, 1], packed[0, 1::2, 1] = y.ravel().repeat(2), u.flat, v.flat
    want = by_the_formula(*(one.ravel().astype(np.float64) for one in (y, u, v)))
    assert np.abs(camera.to_rgb(packed, "yuyv")[0, ::2] - want).max() <= 1


def test_planes_and_pairs_hold_the_same_colours():
    """NV12 has a pair of U and V for four pixels, YUYV for two."""
    rng = np.random.default_rng(0)
    nv12 = rng.integers(0, 256, (9, 10), np.uint8)
    yuyv = np.empty((6, 10, 2), np.uint8)
    yuyv[..., 0] = nv12[:6]
    yuyv[..., 1] = nv12[6:].repeat(2, axis=0)
    np.testing.assert_array_equal(camera.to_rgb(nv12, "nv12"), camera.to_rgb(yuyv, "yuyv"))


def test_red_green_and_blue_are_where_they_belong():
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert camera.to_rgb(rgb, "rgb") is rgb
    np.testing.assert_array_equal(camera.to_rgb(rgb, "bgr"), rgb[..., ::-1])
    for (y, u, v), want in {
        (82, 90, 240): (255, 0, 0),
        (145, 54, 34): (0, 255, 0),
        (41, 240, 110): (0, 0, 255),
        (235, 128, 128): (255, 255, 255),
        (16, 128, 128): (0, 0, 0),
    }.items():
        frame = np.array([[y, y], [y, y], [u, v]], np.uint8)
        assert np.abs(camera.to_rgb(frame, "nv12").astype(int) - want).max() <= 2


@pytest.mark.parametrize("kind", ["nv12", "yuyv"])
def test_conversions_are_opencvs(kind):
    cv2 = pytest.importorskip("cv2")
    frame = np.random.default_rng(1).integers(0, 256, (96, 64, 2), np.uint8)
    code = {"nv12": cv2.COLOR_YUV2RGB_NV12, "yuyv": cv2.COLOR_YUV2RGB_YUY2}[kind]
    frame = frame[..., 0] if kind == "nv12" else frame
    want = cv2.cvtColor(frame, code).astype(int)
    assert np.abs(camera.to_rgb(frame, kind) - want).max() <= 1


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((4, 4, 3), "uint8", "nv12"),
        ((4, 4), "uint8", "nv12"),
        ((6, 5), "uint8", "nv12"),
        ((4, 5, 2), "uint8", "yuyv"),
        ((4, 4, 3), "uint8", "yuyv"),
        ((4, 4, 2), "uint8", "bgr"),
        ((0, 4, 3), "uint8", "rgb"),
        ((4, 4, 3), "float32", "rgb"),
    ],
)
def test_arrays_of_another_format_are_refused(shape, dtype, kind):
    with pytest.raises(InputError) as refused:
        camera.to_rgb(np.zeros(shape, dtype), kind)
    assert f"got {dtype} {shape}, expected {kind}" in str(refused.value)


def test_an_unknown_format_is_refused():
    assert camera.check_format("nv12") == "nv12"
    with pytest.raises(ConfigError, match="got 'nv21', expected one of rgb, bgr, nv12, yuyv"):
        camera.check_format("nv21")
