"""The library that converts and resizes pictures, compiled here, against numpy and Pillow."""

import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degmix_edge import camera, pixel_library
from degmix_edge.errors import ConfigError
from degmix_edge.preprocess import Fit, fit_image

SOURCE = Path(__file__).parents[2] / "plugins" / "pixels"
COMPILER = shutil.which("g++") or shutil.which("c++")
pytestmark = [
    pytest.mark.slow(file_seconds=15),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]
VARIABLE = pixel_library.VARIABLE


def compiled(folder, *flags):
    path = folder / pixel_library.FILE
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags]
    sources = [str(SOURCE / name) for name in ("colours.cpp", "resize.cpp")]
    subprocess.run([*command, *sources, "-o", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("pixels"), "-O3")


@pytest.fixture(scope="module")
def library(built):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(built))
        yield built


@pytest.fixture
def without(monkeypatch):
    def call(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setenv(VARIABLE, "none")
            return function(*arguments)

    return call


def by_pillow(image, height, width):
    resized = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(resized)


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    out=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 9999),
    extremes=st.booleans(),
)
def test_any_size_is_pillows_within_a_level(library, size, out, seed, extremes):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    if extremes:
        image = np.where(image < 128, 0, 255).astype(np.uint8)
    got = pixel_library.resize(image, *out)
    assert got.shape == (*out, 3)
    assert np.abs(got.astype(int) - by_pillow(image, *out)).max() <= 1


@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((480, 640), (192, 256)),
        ((720, 1280), (144, 256)),
        ((1080, 1920), (448, 576)),
        ((1944, 2592), (3, 4)),  # more than 600 times smaller
        ((2, 3000), (1, 7)),
        ((3000, 2), (7, 1)),
        ((37, 51), (74, 102)),
        ((1, 1), (33, 44)),
        ((192, 256), (192, 256)),
    ],
)
def test_sizes_of_cameras_are_pillows(library, size, out):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    got = pixel_library.resize(image, *out).astype(int)
    assert np.abs(got - by_pillow(image, *out)).max() <= 1
    if size == (480, 640):  # of one aspect ratio every Pillow begins with the columns
        np.testing.assert_array_equal(got, by_pillow(image, *out))


@pytest.mark.parametrize("kind", pixel_library.PACKINGS)
@pytest.mark.parametrize("size", [(2, 2), (6, 10), (34, 66), (96, 160)])
def test_frames_are_those_of_numpy(library, without, kind, size):
    height, width = size
    shape = {"nv12": (height * 3 // 2, width), "bgr": (height, width, 3)}
    shape = shape.get(kind, (height, width, 2))
    frame = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    got, want = camera.to_rgb(frame, kind), without(camera.to_rgb, frame, kind)
    np.testing.assert_array_equal(got, want)
    apart = np.repeat(frame, 2, axis=0)[::2]  # rows that do not follow each other
    np.testing.assert_array_equal(camera.to_rgb(apart, kind), want)


@pytest.mark.parametrize(
    ("kind", "mode"), product(["rgb", "nv12", "uyvy"], ["letterbox", "stretch", "crop"])
)
def test_the_networks_input_is_that_of_pillow(library, without, kind, mode):
    """A crop is a part of a larger picture, whose rows are apart."""
    shape = {"nv12": (135, 122), "uyvy": (90, 122, 2)}.get(kind, (90, 122, 3))
    frame = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    fit = Fit(height=31, width=44, mode=mode)

    def fitted():
        return fit_image(camera.to_rgb(frame, kind), fit)

    (got, place), (want, same) = fitted(), without(fitted)
    assert place == same
    assert np.abs(got.astype(int) - want).max() <= 1


def test_views_that_only_pillow_takes(library):
    image = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    for view in (image[::-1], image[:, ::-1], image[:, ::2], image[..., ::-1]):
        assert pixel_library.resize(view, 9, 11) is None
        got, _ = fit_image(view, Fit(height=9, width=11, mode="stretch"))
        np.testing.assert_array_equal(got, by_pillow(np.ascontiguousarray(view), 9, 11))


def test_libraries_that_are_none(built, tmp_path, monkeypatch):
    image = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(ConfigError, match=r"no such file; unset it, or run `make cpu-ops`"):
        pixel_library.resize(image, 2, 2)
    (tmp_path / "text.so").write_text("no library")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "text.so"))
    with pytest.raises(ConfigError, match=r"text\.so: no library of ours .* DEGMIX_PIXELS=none"):
        pixel_library.resize(image, 2, 2)
    older = tmp_path / "older.so"
    older.write_bytes(built.read_bytes())
    monkeypatch.setattr(pixel_library, "VERSION", "2")
    monkeypatch.setenv(VARIABLE, str(older))
    with pytest.raises(ConfigError, match="version 1, expected 2; `make cpu-ops` builds it again"):
        pixel_library.resize(image, 2, 2)


def test_no_access_outside_of_a_frame(tmp_path):
    """A small program, with a checker of addresses, at sizes with every kind of rest."""
    program = tmp_path / "program.cpp"
    program.write_text(
        """#include "pixels.h"
#include <cstdlib>
#include <vector>
int main() {
    for (int64_t h = 2; h < 14; h += 2) for (int64_t w = 2; w < 40; w += 2) {
        std::vector<uint8_t> frame(3 * h * w, 77), rgb(3 * h * w);
        std::vector<uint8_t> planes(h * w * 3 / 2, 99), pairs(2 * h * w, 99), out(3 * 5 * 7);
        bool ok = degmix::toRgb(frame.data(), degmix::Packing::kBGR, h, w, rgb.data());
        ok &= degmix::toRgb(planes.data(), degmix::Packing::kNV12, h, w, rgb.data());
        ok &= degmix::toRgb(pairs.data(), degmix::Packing::kYUYV, h, w, rgb.data());
        ok &= degmix::toRgb(pairs.data(), degmix::Packing::kUYVY, h, w, rgb.data());
        ok &= degmix::resizeRgb({rgb.data(), 3 * w, h, w}, 5, 7, out.data());
        ok &= degmix::resizeRgb({rgb.data() + 3, 3 * w, h - 1, w - 1}, 5, 7, out.data());
        if (!ok) return 1;
    }
}
"""
    )
    binary = tmp_path / "program"
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", f"-I{SOURCE}"]
    sources = [str(program), *(str(SOURCE / f"{name}.cpp") for name in ("colours", "resize"))]
    done = subprocess.run([COMPILER, *flags, *sources, "-o", str(binary)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no sanitizers: {done.stderr.decode()[-200:]}")
    ran = subprocess.run([str(binary)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
