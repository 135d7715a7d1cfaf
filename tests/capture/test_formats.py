"""Bytes of cameras become arrays without a change of a pixel, and replays keep their time."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degmix_edge.camera import BAYER, to_rgb
from degmix_edge.capture._formats import to_known, unpack
from degmix_edge.capture._replay import LATE_NS, ReplayClock
from degmix_edge.errors import SourceError

DEPTHS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2, "uyvy": 2, "grey": 1, "nv12": 1}
DEPTHS |= dict.fromkeys(BAYER, 1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(DEPTHS)), SHAPES, st.integers(0, 7), st.booleans(), st.data())
def test_padding_is_cut_off(layout: str, half, padding: int, has_last: bool, data):
    height, width = 2 * half[0], 2 * half[1]
    rows, packed = height * 3 // 2 if layout == "nv12" else height, width * DEPTHS[layout]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    pixels = rng.integers(0, 256, (rows, packed), np.uint8)
    padded = np.pad(pixels, ((0, 0), (0, padding)), constant_values=77).reshape(-1)
    if not has_last:
        padded = padded[: padded.size - padding]
    array = unpack(padded, layout, (height, width), packed + padding, "frame")
    assert array.flags.c_contiguous
    assert array.shape == ((rows, width, DEPTHS[layout]) if DEPTHS[layout] > 1 else (rows, width))
    np.testing.assert_array_equal(array.reshape(rows, packed), pixels)
    image, kind = to_known(array, layout)
    assert to_rgb(image, kind).shape == (height, width, 3)
    with pytest.raises(SourceError, match="bytes, expected"):
        unpack(padded[: padded.size - padding * has_last - 1], layout, (height, width),
               packed + padding, "frame")  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "size", "step", "message"),
    [
        ("rgb", (4, 4), 11, "rows of 11 bytes, expected at least 12"),
        ("nv12", (3, 4), 4, "expected even sides"),
        ("nv12", (4, 3), 4, "expected even sides"),
        ("uyvy", (4, 3), 6, "expected even sides"),
        ("grey", (0, 4), 4, "expected sides from 1 pixel"),
    ],
)
def test_sizes_that_cannot_be_are_refused(layout: str, size, step: int, message: str):
    with pytest.raises(SourceError, match=message):
        unpack(np.zeros(100, np.uint8), layout, size, step, "frame")


def test_known_layouts_keep_their_colours():
    rng = np.random.default_rng(1)
    rgba = rng.integers(0, 256, (4, 6, 4), np.uint8)
    for layout, order in (("rgba", (0, 1, 2)), ("bgra", (2, 1, 0))):
        np.testing.assert_array_equal(to_rgb(*to_known(rgba, layout)), rgba[..., order])
    yuyv = rng.integers(0, 256, (4, 6, 2), np.uint8)
    uyvy = np.ascontiguousarray(yuyv[..., ::-1])
    np.testing.assert_array_equal(to_rgb(*to_known(uyvy, "uyvy")), to_rgb(yuyv, "yuyv"))
    grey = rng.integers(0, 256, (4, 6), np.uint8)
    rgb = to_rgb(*to_known(grey, "grey"))
    assert all(np.array_equal(rgb[..., channel], grey) for channel in range(3))


def mosaic_of(image: np.ndarray, layout: str) -> np.ndarray:
    """What a sensor sees of a picture through its colour filters."""
    mosaic = np.empty(image.shape[:2], np.uint8)
    for place, colour in enumerate(layout.removeprefix("bayer_")):
        y, x = divmod(place, 2)
        mosaic[y::2, x::2] = image[y::2, x::2, "rgb".index(colour)]
    return mosaic


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(BAYER), st.tuples(*[st.integers(0, 255)] * 3), SHAPES)
def test_a_mosaic_of_one_colour_is_that_colour(layout: str, colour, half):
    image = np.empty((2 * half[0], 2 * half[1], 3), np.uint8)
    image[:] = colour
    np.testing.assert_array_equal(to_rgb(*to_known(mosaic_of(image, layout), layout)), image)


@pytest.mark.parametrize("layout", BAYER)
def test_a_mosaic_of_a_ramp_is_the_ramp_inside(layout: str):
    y, x = np.mgrid[:12, :16]
    image = np.stack([2 * y + 3 * x, 100 + y - 2 * x, 60 + 4 * y], axis=-1).astype(np.uint8)
    rgb = to_rgb(*to_known(mosaic_of(image, layout), layout))
    np.testing.assert_array_equal(rgb[1:-1, 1:-1], image[1:-1, 1:-1])


# The clock of replays

PERIOD_NS = 1_000_000


def test_waits_do_not_add_up():
    clock, stop = ReplayClock(), threading.Event()
    dues = [clock.wait(10**18 + i * PERIOD_NS, stop) for i in range(50)]
    assert [due - dues[0] for due in dues] == [i * PERIOD_NS for i in range(50)]
    assert time.monotonic_ns() >= dues[-1]
    assert clock.jumps == 0


def test_time_that_jumps_back_goes_on_after_one_period():
    clock, stop = ReplayClock(), threading.Event()
    first, second, third, fourth = (
        clock.wait(stamp * PERIOD_NS, stop) for stamp in (100, 102, 5, 6)
    )
    assert (second - first, third - second, fourth - third) == (2e6, 2e6, 1e6)
    assert clock.jumps == 1


def test_a_late_replay_goes_on_from_now(monkeypatch):
    clock, stop = ReplayClock(), threading.Event()
    first = clock.wait(0, stop)
    real = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real() + 3 * LATE_NS)
    assert clock.is_past(PERIOD_NS)
    late = clock.wait(PERIOD_NS, stop)
    assert late - first >= 3 * LATE_NS
    assert clock.wait(2 * PERIOD_NS, stop) - late == PERIOD_NS
    assert not clock.is_past(10**15)
    assert not clock.is_past(0)  # it is before the last one: nobody knows when it is due


def test_a_wait_ends_where_it_is_stopped():
    clock, stop = ReplayClock(), threading.Event()
    assert clock.wait(0, stop) is not None
    threading.Timer(0.05, stop.set).start()
    begin = time.monotonic()
    assert clock.wait(3600 * 10**9, stop) is None
    assert time.monotonic() - begin < 1
