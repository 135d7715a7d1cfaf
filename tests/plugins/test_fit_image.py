"""Frames of cameras to the network's input, within one level of Pillow on the processor.

The kernel resizes along rows first, rounding as Pillow does. Pillow begins along columns where
that is cheaper, which moves some pixels by a level. Frames of cameras in a letterbox have the same
bytes. Emulated here, and on a card as on_card.py says.
"""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import memory, native

from degmix_edge.camera import KERNEL_FORMATS, to_rgb

pytestmark = pytest.mark.slow

FEW = {"max_examples": 40, "deadline": None, "derandomize": True}
PAD = (124, 116, 104)


def frame_of(rng, kind, height, width):
    """A frame of noise and of edges, which a wrong weight moves by many levels."""
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}
    shape = shape.get(kind, (height, width, 3))
    noise = rng.integers(0, 256, shape, np.uint8)
    return np.where(rng.random(shape) < 0.5, noise, noise // 128 * 255).astype(np.uint8)


def padded(rows, gap):
    """The rows with `gap` bytes of something else behind each, and their pitch."""
    flat = rows.reshape(len(rows), -1)
    return np.pad(flat, ((0, 0), (0, gap)), constant_values=201), flat.shape[1] + gap


def fit(kernels, frame, kind, window, place, out, *, gap=0, planar=False, order=0):
    """`fit_image` of one frame: the part `window` of it becomes the part `place` of an output."""
    height = len(frame) * 2 // 3 if kind == "nv12" else len(frame)
    copy = memory(kernels)
    luma, pitch = padded(frame[:height], gap)
    source = copy(luma)
    chroma, chroma_pitch = padded(frame[height:], 2 * gap) if kind == "nv12" else (luma, 0)
    other = copy(chroma)
    target = copy(np.full((3, *out) if planar else (*out, 3), 77, np.uint8))
    params = native.FitImageParams(
        source=source.address,
        chroma=other.address if kind == "nv12" else None,
        output=target.address,
        format=native.FORMATS[kind],
        height=height,
        width=frame.shape[1],
        pitch=pitch,
        chroma_pitch=chroma_pitch,
        layout=native.PLANAR if planar else native.CHANNELS_LAST,
        pad=(native.c_int32 * 3)(*PAD),
    )
    params.window_top, params.window_left, params.window_height, params.window_width = window
    params.top, params.left, params.placed_height, params.placed_width = place
    params.out_height, params.out_width = out
    set_order = getattr(kernels.library, "degmix_emulation_set_order", lambda order: None)
    set_order(order)
    kernels.launch("fit_image", params)
    set_order(0)
    found = target.array()
    return found.transpose(1, 2, 0) if planar else found


def expected(frame, kind, window, place, out, resize):
    top, left, height, width = window
    seen = to_rgb(frame, kind)[top : top + height, left : left + width]
    canvas = np.full((*out, 3), PAD, np.uint8)
    top, left, height, width = place
    canvas[top : top + height, left : left + width] = resize(seen, height, width)
    return canvas


def by_pillow(pixels, height, width):
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR))


def by_axes(pixels, height, width):
    """Columns, then rows, each rounded to bytes: a filter of exact fractions of 2^22."""
    across = along(pixels.transpose(1, 0, 2), width)
    return along(across.transpose(1, 0, 2), height)


def along(rows, size):
    centre = (2 * np.arange(size)[:, None] + 1) * len(rows)
    away = np.abs((2 * np.arange(len(rows)) + 1) * size - centre)
    height = (2 * max(len(rows), size) - away).clip(0)
    total = height.sum(axis=1, keepdims=True)
    weights = (2 * (height << 22) + total) // (2 * total)
    sums = np.tensordot(weights, rows.astype(np.int64), 1)
    return ((sums + (1 << 21)) >> 22).clip(0, 255).astype(np.uint8)


def check(got, *case, is_exact=True):
    """Equal to the slow reference bit by bit, and to Pillow within a level."""
    np.testing.assert_array_equal(got, expected(*case, by_axes))
    assert np.abs(got.astype(int) - expected(*case, by_pillow)).max() <= (0 if is_exact else 1)


def part(data, whole, least=1):
    size = data.draw(st.integers(least, whole))
    return data.draw(st.integers(0, whole - size)), size


@settings(**FEW)
@given(
    data=st.data(),
    seed=st.integers(0, 9999),
    kind=st.sampled_from(KERNEL_FORMATS),
    size=st.tuples(st.integers(1, 40), st.integers(1, 75)),
    out=st.tuples(st.integers(1, 21), st.one_of(st.integers(1, 70), st.sampled_from([32, 64]))),
    gap=st.sampled_from([0, 0, 1, 5, 64]),
    planar=st.booleans(),
)
def test_any_frame_is_its_reference(kernels, data, seed, kind, size, out, gap, planar):
    height, width = size
    if kind in ("nv12", "yuyv"):
        width += width % 2
    if kind == "nv12":
        height += height % 2
    rng = np.random.default_rng(seed)
    frame = frame_of(rng, kind, height, width)
    window, place = zip(part(data, height), part(data, width), strict=True)
    window = (*window, *place)
    place, sizes = zip(part(data, out[0]), part(data, out[1]), strict=True)
    place = (*place, *sizes)
    found = [
        fit(kernels, frame, kind, window, place, out, gap=gap, planar=planar, order=order)
        for order in (0, 1)
    ]
    assert found[0].tobytes() == found[1].tobytes(), "the order of threads changes the result"
    check(found[0], frame, kind, window, place, out, is_exact=False)


@pytest.mark.parametrize("kind", KERNEL_FORMATS)
@pytest.mark.parametrize(
    ("size", "place", "out"),
    [
        ((360, 640), (22, 0, 126, 224), (170, 224)),  # a letterbox, three times smaller
        ((48, 64), (0, 0, 48, 64), (48, 64)),  # as it is
        ((30, 40), (0, 0, 93, 161), (93, 161)),  # larger
        ((2, 4096), (1, 3, 2, 40), (4, 48)),  # 102 times narrower
        ((1024, 8), (0, 0, 9, 8), (9, 8)),  # many bands of rows, 114 times lower
    ],
)
def test_sizes_of_cameras_are_pillows(kernels, kind, size, place, out):
    frame = frame_of(np.random.default_rng(3), kind, *size)
    window = (0, 0, *size)
    got = fit(kernels, frame, kind, window, place, out, gap=16)
    check(got, frame, kind, window, place, out, is_exact=size[0] != 1024)


@pytest.mark.parametrize(
    ("size", "out"),
    [((1024, 8), (9, 8)), ((4096, 4096), (32, 32)), ((16384, 64), (128, 32))],
)
def test_the_largest_shrinks_fit_the_smallest_card(kernels, size, out):
    """A block of Turing has 64 KB of shared memory, and of an RTX 40 99 KB."""
    set_device = getattr(kernels.library, "degmix_emulation_set_device", lambda device: None)
    frame = frame_of(np.random.default_rng(4), "rgb", *size)
    window, place = (0, 0, *size), (0, 0, *out)
    set_device(1)
    try:
        got = fit(kernels, frame, "rgb", window, place, out, gap=16)
    finally:
        set_device(0)
    check(got, frame, "rgb", window, place, out, is_exact=False)


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [(90, 160), (31, 50), (48, 64)])
def test_the_processors_own_function_gives_the_same(kernels, mode, size):
    pytest.importorskip("pydantic", reason="preprocess needs pydantic")
    from degmix_edge.preprocess import Fit, fit_image

    wanted = Fit(height=48, width=64, mode=mode, pad=PAD)
    frame = frame_of(np.random.default_rng(4), "rgb", *size)
    pixels, placed = fit_image(frame, wanted)
    place = (placed.top, placed.left, placed.height, placed.width)
    window = placed.window or (0, 0, *size)
    np.testing.assert_array_equal(fit(kernels, frame, "rgb", window, place, wanted.size), pixels)


RIGHT = {"format": 0, "height": 4, "width": 6, "pitch": 18, "out_height": 8, "out_width": 8}
RIGHT |= {"window_height": 4, "window_width": 6, "placed_height": 8, "placed_width": 8}
RIGHT |= {"layout": native.CHANNELS_LAST, "source": 16, "output": 16}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 4}, "format: expected rgb, bgr, nv12 or yuyv"),
        ({"layout": 2}, "layout: expected planar or channels last"),
        ({"height": 0}, "a side: expected 1 to 16384 pixels"),
        ({"out_width": 20000}, "a side: expected 1 to 16384 pixels"),
        ({"format": 2, "width": 5}, "width: nv12 and yuyv need an even number"),
        ({"format": 2, "height": 5}, "height: nv12 needs an even number"),
        ({"format": 2, "chroma_pitch": 6}, "chroma: nv12 needs the plane of U and V"),
        ({"format": 2, "chroma": 16, "chroma_pitch": 5}, "chromaPitch: expected at least"),
        ({"pitch": 17}, "pitch: expected at least the bytes of a row"),
        ({"window_left": 1}, "window: expected a part of the frame"),
        ({"window_height": 0}, "window: expected a part of the frame"),
        ({"top": 1}, "placement: expected a part of the output"),
        ({"height": 1100, "window_height": 1100}, "more than 128 times as large"),
        ({"pad": (native.c_int32 * 3)(0, 256, 0)}, "pad: expected bytes"),
        ({"source": None}, "a pointer is null"),
    ],
)
def test_parameters_that_are_refused(kernels, change, reason):
    params = native.FitImageParams(**RIGHT | change)
    with pytest.raises(ValueError, match="fit_image: ") as refused:
        kernels.launch("fit_image", params)
    assert reason in str(refused.value)
