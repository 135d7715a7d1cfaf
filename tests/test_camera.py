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


def test_the_order_of_bytes_in_pairs():
    """UYVY has the bytes of YUYV with each two exchanged."""
    yuyv = np.random.default_rng(2).integers(0, 256, (70, 10, 2), np.uint8)
    want = camera.to_rgb(yuyv, "yuyv")
    np.testing.assert_array_equal(camera.to_rgb(yuyv[..., ::-1], "uyvy"), want)


def test_grey_is_repeated():
    grey = np.random.default_rng(3).integers(0, 256, (5, 7), np.uint8)
    rgb = camera.to_rgb(grey, "grey")
    assert rgb.flags.c_contiguous
    for channel in range(3):
        np.testing.assert_array_equal(rgb[..., channel], grey)


def by_neighbours(mosaic, pattern):
    """Pixel by pixel: the mean of the nearest pixels that have the colour, rounded half up."""
    height, width = mosaic.shape
    rgb = np.zeros((height, width, 3), np.uint8)

    def colour(y, x):
        return "rgb".index(pattern[2 * (y % 2) + x % 2])

    def inside(at, size):  # mirrored at the first and the last pixel
        return -at if at < 0 else 2 * (size - 1) - at if at >= size else at

    for y, x, channel in np.ndindex(height, width, 3):
        if colour(y, x) == channel:
            rgb[y, x, channel] = mosaic[y, x]
            continue
        steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        having = [step for step in steps if colour(y + step[0], x + step[1]) == channel]
        nearest = min(dy * dy + dx * dx for dy, dx in having)
        values = [
            int(mosaic[inside(y + dy, height), inside(x + dx, width)])
            for dy, dx in having
            if dy * dy + dx * dx == nearest
        ]
        assert len(values) in (2, 4)
        rgb[y, x, channel] = (sum(values) + len(values) // 2) // len(values)
    return rgb


@pytest.mark.parametrize("kind", camera.BAYER)
@pytest.mark.parametrize("size", [(2, 2), (2, 8), (8, 2), (6, 10)])
def test_a_mosaic_is_the_mean_of_the_nearest(kind, size):
    mosaic = np.random.default_rng(4).integers(0, 256, size, np.uint8)
    want = by_neighbours(mosaic, kind.removeprefix("bayer_"))
    np.testing.assert_array_equal(camera.to_rgb(mosaic, kind), want)


@pytest.mark.parametrize("kind", camera.BAYER)
def test_a_mosaic_of_one_colour_is_that_colour(kind):
    colour = (200, 90, 30)
    mosaic = np.zeros((6, 8), np.uint8)
    for index, name in enumerate(kind.removeprefix("bayer_")):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour["rgb".index(name)]
    assert (camera.to_rgb(mosaic, kind) == colour).all()


def test_long_frames_are_converted_in_bands():
    """A height that is no multiple of a band gives what every part gives alone."""
    nv12 = np.random.default_rng(5).integers(0, 256, (105, 6), np.uint8)
    whole = camera.to_rgb(nv12, "nv12")
    for top in range(0, 70, 2):
        rows = np.concatenate([nv12[top : top + 2], nv12[70 + top // 2 : 71 + top // 2]])
        np.testing.assert_array_equal(whole[top : top + 2], camera.to_rgb(rows, "nv12"))


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
        ((4, 5, 2), "uint8", "uyvy"),
        ((4, 4, 1), "uint8", "grey"),
        ((4, 4), "uint16", "grey"),
        ((4,), "uint8", "grey"),
        ((5, 4), "uint8", "bayer_rggb"),
        ((4, 5), "uint8", "bayer_gbrg"),
        ((4, 4, 3), "uint8", "bayer_bggr"),
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
