import io
import subprocess
import sys
import timeit
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from degmix_edge.errors import InputError, ShapeError
from degmix_edge.preprocess import (
    ENDINGS,
    MEAN,
    MEAN_COLOUR,
    STD,
    Fit,
    Placement,
    fit_image,
    fit_intrinsics,
    fit_map,
    list_images,
    normalise,
    read_image,
)

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
ORIENTATION = 0x0112


def save(path, pixels=PICTURE, mode=None, **keywords):
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **keywords)
    return path


def refusal(source, function=read_image):
    with pytest.raises(InputError) as caught:
        function(source)
    return str(caught.value)


# ---- reading ----


@pytest.mark.parametrize("as_what", [str, lambda p: p, PIL.Image.open, lambda p: PICTURE])
def test_reads_paths_pillow_images_and_arrays(tmp_path, as_what):
    pixels = read_image(as_what(save(tmp_path / "a.png")))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, PICTURE)


def test_an_array_is_not_copied_and_a_file_is_writable(tmp_path):
    assert read_image(PICTURE) is PICTURE
    assert read_image(save(tmp_path / "a.png")).flags.writeable


@pytest.mark.parametrize("of", [bytes, bytearray, lambda b: np.frombuffer(b, np.uint8)])
def test_the_bytes_of_a_jpeg_are_its_picture(tmp_path, of):
    """A camera that sends MJPEG gives these."""
    path = save(tmp_path / "a.jpg", RNG.integers(0, 256, (30, 40, 3), np.uint8))
    encoded = of(path.read_bytes())
    np.testing.assert_array_equal(read_image(encoded), read_image(path))
    fit = Fit(height=12, width=12)
    (got, placement), (want, same) = fit_image(encoded, fit), fit_image(path, fit)
    np.testing.assert_array_equal(got, want)
    assert placement == same


def test_bytes_that_are_no_picture(tmp_path):
    encoded = save(tmp_path / "a.jpg", RNG.integers(0, 256, (64, 64, 3), np.uint8)).read_bytes()
    assert refusal(b"").startswith("image: is no image in a format that Pillow reads")
    assert refusal(b"x" * 100).startswith("image: is no image in a format that Pillow reads")
    assert refusal(encoded[:900]).startswith("image: damaged, cut off")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("opened", [False, True])
def test_exif_orientation_is_applied(tmp_path, orientation, opened):
    # How the camera stored a picture that is upright as PICTURE, by the EXIF standard: where the
    # stored first row and first column are in the upright picture.
    stored = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: PICTURE.transpose(1, 0, 2)[::-1],
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: PICTURE.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_image(PIL.Image.open(path) if opened else path), PICTURE)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_arrays_are_repeated(shape):
    grey = RNG.integers(0, 256, shape, dtype=np.uint8)
    pixels = read_image(grey)
    assert pixels.shape == (4, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], grey.reshape(4, 5))


@pytest.mark.parametrize(
    ("mode", "ending", "tolerance"),
    [("L", "png", 0), ("1", "png", 0), ("P", "png", 0), ("CMYK", "tif", 1), ("YCbCr", "jpg", 4)],
)
def test_pillow_modes_become_rgb(tmp_path, mode, ending, tolerance):
    flat = np.full((16, 16, 3), (255, 255, 255), np.uint8)
    flat[8:] = 0
    pixels = read_image(save(tmp_path / f"a.{ending}", flat, mode))
    np.testing.assert_allclose(pixels.astype(int), flat, atol=tolerance)


def test_palette_colours_survive(tmp_path):
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_transparent_pixels_take_the_mean_colour(tmp_path):
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, 1] = (10, 20, 30, 255)
    expected = [[list(MEAN_COLOUR), [10, 20, 30]]]
    assert read_image(rgba).tolist() == expected
    assert read_image(save(tmp_path / "rgba.png", rgba)).tolist() == expected
    grey = PIL.Image.new("LA", (1, 1), (200, 0))
    grey.paste((200, 255), (0, 0, 1, 1))
    assert read_image(grey).tolist() == [[[200] * 3]]
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert read_image(tmp_path / "palette.png").tolist() == expected


def test_a_picture_transparent_everywhere_is_refused():
    message = refusal(np.zeros((2, 2, 4), np.uint8))
    assert "transparent everywhere" in message
    assert "image[..., :3]" in message


def test_first_frame_of_an_animation(tmp_path):
    frames = [PIL.Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


# ---- refusals: each names the thing and says what to do ----


def test_missing_files_name_the_nearest(tmp_path, monkeypatch):
    save(tmp_path / "photo_01.png")
    path = tmp_path / "photo_1.png"
    assert refusal(path) == f"{path}: no such file. Did you mean {tmp_path / 'photo_01.png'}?"
    path = tmp_path / "xyz.bmp"
    assert refusal(path) == f"{path}: no such file. Check the path; {tmp_path} exists."
    monkeypatch.chdir(tmp_path)
    assert refusal(Path("xyz.bmp")).endswith(f"Check the path; {tmp_path} exists.")
    path = tmp_path / "no_folder" / "a.png"
    assert refusal(path).startswith(f"{path}: no such file. Its folder {path.parent} does not")


def test_a_folder_is_no_file(tmp_path):
    assert refusal(tmp_path) == (
        f"{tmp_path}: is a folder, expected an image file; give one of its files"
    )


def test_empty_files(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    assert refusal(path) == f"{path}: is empty (0 bytes); copy or record it again"


def test_files_that_are_no_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("not a picture")
    message = refusal(path)
    assert message.startswith(f"{path}: is no image")
    assert "convert it to PNG or JPEG" in message


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files(tmp_path, ending, share):
    path = save(tmp_path / f"a.{ending}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for source in (path, str(path)):
        message = refusal(source)
        assert message.startswith(f"{path}: ")
        assert "again" in message or "convert it" in message


def test_truncated_pillow_images():
    stream = io.BytesIO()
    PIL.Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "jpeg")
    image = PIL.Image.open(io.BytesIO(stream.getvalue()[:2000]))
    assert "damaged, cut off" in refusal(image)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "webp", "tif"])
def test_no_damage_escapes_as_another_error(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged size costs no memory
    content = bytearray(save(tmp_path / f"a.{ending}").read_bytes())
    path = tmp_path / f"damaged.{ending}"
    for seed in range(60):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 4):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).dtype == np.uint8
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right


def test_decompression_bombs(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 20)
    message = refusal(path)
    assert message.startswith(f"{path}: is too large")
    assert "PIL.Image.MAX_IMAGE_PIXELS" in message


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_files_are_refused_not_scaled(tmp_path, dtype):
    path = save(tmp_path / "depth.tif", np.full((4, 5), 1000, dtype))
    message = refusal(path)
    assert message.startswith(f"{path}: got {16 if dtype == np.uint16 else 32}-bit pixels")
    assert "// 257" in message
    assert "depth" in message


def test_deep_png_is_refused(tmp_path):
    assert "16-bit pixels" in refusal(save(tmp_path / "a.png", np.full((4, 5), 1000, np.uint16)))


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros((0, 5, 3), "u1"), ["(0, 5, 3)", "no pixels"]),
        (np.zeros((3, 40, 50), "u1"), ["uint8 (3, 40, 50)", "image.transpose(1, 2, 0)"]),
        (np.zeros((1, 40, 50), "u1"), ["image.transpose(1, 2, 0)"]),
        (np.zeros((1, 40, 50, 3), "u1"), ["(1, 40, 50, 3)", "image[0]"]),
        (np.zeros((40, 50, 2), "u1"), ["(40, 50, 2)", "(height, width, 3)"]),
        (np.zeros(40, "u1"), ["(40,)", "(height, width, 3)"]),
        (np.full((4, 5, 3), 0.5, "f4"), ["float32", "0.5..0.5", "(image * 255).round()"]),
        (np.full((4, 5, 3), 200.0), ["float64", "200.0..200.0", "clip(0, 255)"]),
        (np.full((4, 5, 3), 65535, "u2"), ["uint16", "65535", "// 257", "depth"]),
        (np.full((4, 5, 3), 7, "i8"), ["int64", "7..7", "astype(np.uint8)"]),
        (np.ones((4, 5), bool), ["bool", "astype(np.uint8) * 255"]),
    ],
)
def test_arrays_that_are_no_picture(array, parts):
    message = refusal(array)
    for part in parts:
        assert part in message


def test_other_types_and_empty_pillow_images():
    message = refusal([1, 2])
    assert "got list, expected a path, a Pillow image, a numpy array or the bytes" in message
    assert "has no pixels (size (0, 5))" in refusal(PIL.Image.new("RGB", (0, 5)))
    assert "save it as RGB" in refusal(PIL.Image.new("La", (2, 2)))


# ---- folders ----


def test_lists_a_folder_sorted_with_its_subfolders(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", "notes.txt", "._a.png", ".cache/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    expected = [tmp_path / name for name in ("a.png", "b.JPG", "sub/c.webp")]
    assert list_images(tmp_path) == list_images(str(tmp_path)) == expected


def test_lists_a_folder_below_a_hidden_one(tmp_path):
    folder = tmp_path / ".data" / "images"
    folder.mkdir(parents=True)
    (folder / "a.png").touch()
    assert list_images(folder) == [folder / "a.png"]


def test_folders_that_cannot_be_listed(tmp_path):
    (tmp_path / "images").mkdir()
    missing = tmp_path / "image"
    assert refusal(missing, list_images) == (
        f"{missing}: no such folder. Did you mean {tmp_path / 'images'}?"
    )
    path = save(tmp_path / "a.png")
    assert refusal(path, list_images) == f"{path}: is a file, expected a folder; give {tmp_path}"
    (tmp_path / "images" / "a.heic").touch()
    message = refusal(tmp_path / "images", list_images)
    assert message.startswith(f"{tmp_path / 'images'}: no images among its 1 files")
    assert all(ending in message for ending in ENDINGS)


# ---- fitting ----


def test_fit_checks_its_settings():
    fit = Fit(height=4, width=6)
    assert (fit.mode, fit.pad) == ("letterbox", MEAN_COLOUR)
    for wrong in ({"height": 0}, {"mode": "tile"}, {"pad": (0, 0, 256)}, {"size": 3}):
        with pytest.raises(ValidationError):
            Fit(**{"height": 4, "width": 6, **wrong})
    with pytest.raises(ValidationError):
        fit.height = 5


@pytest.mark.parametrize(
    ("size", "fit", "rectangle"),
    [
        ((480, 640), (448, 576), (8, 0, 432, 576)),  # bars above and below
        ((640, 480), (448, 576), (0, 120, 448, 336)),  # bars left and right
        ((100, 100), (200, 200), (0, 0, 200, 200)),  # enlarged
        ((3, 3000), (64, 64), (31, 0, 1, 64)),  # never less than one row
        ((425, 560), (448, 576), (5, 0, 437, 576)),  # an odd bar: the larger half is below
    ],
)
def test_letterbox_geometry(size, fit, rectangle):
    image = np.full((*size, 3), 7, np.uint8)
    pixels, placement = fit_image(image, Fit(height=fit[0], width=fit[1], pad=(1, 2, 3)))
    assert placement == Placement(*rectangle, *size)
    assert pixels.shape == (*fit, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    top, left, height, width = rectangle
    inside = np.zeros(fit, bool)
    inside[top : top + height, left : left + width] = True
    assert (pixels[inside] == 7).all()
    assert (pixels[~inside] == (1, 2, 3)).all()


def test_stretch_fills_the_input():
    pixels, placement = fit_image(PICTURE, Fit(height=20, width=10, mode="stretch"))
    assert placement == Placement(0, 0, 20, 10, 6, 9)
    assert pixels.shape == (20, 10, 3)


def middle(height, width, fit):
    """The largest centred window of the input's proportions, by exact fractions."""
    columns = Fraction(height * fit.width, fit.height)
    if columns <= width:
        rows, columns = height, max(1, round(columns))
    else:
        rows, columns = max(1, round(Fraction(width * fit.height, fit.width))), width
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (7, 31), (30, 8), (1, 17), (20, 20), (40, 61)])
@pytest.mark.parametrize("fit", [(12, 18), (5, 4), (3, 9), (8, 8)])
def test_crop_is_the_middle_of_the_picture_resized(size, fit):
    fit = Fit(height=fit[0], width=fit[1], mode="crop")
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels, placement = fit_image(image, fit)
    top, left, rows, columns = window = middle(*size, fit)
    assert (placement.window or (0, 0, *size)) == window
    cut = PIL.Image.fromarray(image).crop((left, top, left + columns, top + rows))
    cut = cut.resize((fit.width, fit.height), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels, np.asarray(cut))
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(placement.crop(pixels), pixels)
    np.testing.assert_array_equal(
        placement.seen(image), image[top : top + rows, left : left + columns]
    )


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_cropped_like_a_small_one(tmp_path, orientation, monkeypatch):
    ramp = np.linspace(0, 255, 800)[:, None] * 0.5 + np.linspace(0, 255, 1201) * 0.5
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.jpg", np.repeat(ramp[..., None], 3, 2).astype(np.uint8), exif=exif)
    fit = Fit(height=40, width=30, mode="crop")
    whole, placement = fit_image(path, fit)
    monkeypatch.setattr("degmix_edge.preprocess._LARGE_PIXELS", 1000)
    fast, same = fit_image(path, fit)
    assert same == placement
    assert placement.window == {1: (0, 300, 800, 600), 6: (67, 0, 1067, 800)}[orientation]
    assert np.abs(fast.astype(int) - whole).max() <= 2


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
def test_no_copy_at_the_right_size(mode):
    fit = Fit(height=6, width=9, mode=mode)
    pixels, placement = fit_image(PICTURE, fit)
    assert pixels is PICTURE
    assert placement == Placement(0, 0, 6, 9, 6, 9)
    flipped, _ = fit_image(PICTURE[:, ::-1], fit)
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, PICTURE[:, ::-1])


def test_padding_alone_leaves_the_pixels():
    pixels, placement = fit_image(PICTURE, Fit(height=8, width=9))
    np.testing.assert_array_equal(placement.crop(pixels), PICTURE)


def test_shrinking_does_not_alias():
    checkerboard = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    pixels, _ = fit_image(checkerboard, Fit(height=40, width=40))
    assert abs(pixels.astype(int) - 127).max() <= 3


def test_files_are_fitted_too(tmp_path):
    pixels, placement = fit_image(save(tmp_path / "a.png"), Fit(height=12, width=18))
    assert pixels.shape == (12, 18, 3)
    assert (placement.image_height, placement.image_width) == (6, 9)


# ---- and back ----


@given(
    height=st.integers(20, 70),
    width=st.integers(20, 70),
    mode=st.sampled_from(["letterbox", "stretch"]),
)
@settings(max_examples=40, deadline=None)
def test_labels_come_back_where_they_were(height, width, mode):
    # Quarters of the picture as four grey levels: after the round trip each pixel that is further
    # than a blended one from a border has its own level again.
    label = np.zeros((height, width), np.uint8)
    label[height // 2 :] += 1
    label[:, width // 2 :] += 2
    pixels, placement = fit_image(label * 80, Fit(height=48, width=64, mode=mode))
    back = placement.to_image_size((pixels[..., 0] / 80).round().astype(np.uint8), labels=True)
    assert back.shape == (height, width)
    assert back.dtype == np.uint8
    far = np.ones((height, width), bool)
    far[height // 2 - 3 : height // 2 + 3] = False
    far[:, width // 2 - 3 : width // 2 + 3] = False
    np.testing.assert_array_equal(back[far], label[far])


def test_continuous_maps_come_back():
    # A ramp is what bilinear resizing keeps exactly, but for the border.
    ramp = np.linspace(0, 255, 96, dtype=np.float32)[None].repeat(64, 0)
    _, placement = fit_image(np.zeros((64, 96, 3), np.uint8), Fit(height=160, width=192))
    assert (placement.top, placement.height, placement.width) == (16, 128, 192)
    fitted = np.full((160, 192), -1, np.float32)
    fitted[16:144] = np.asarray(PIL.Image.fromarray(ramp).resize((192, 128), 2))
    back = placement.to_image_size(fitted, labels=False)
    np.testing.assert_allclose(back[:, 3:-3], ramp[:, 3:-3], atol=0.01)
    vectors = placement.to_image_size(np.stack([fitted] * 3, -1), labels=False)
    assert vectors.shape == (64, 96, 3)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[..., 1], back)


def test_nearest_takes_the_pixel_under_the_centre():
    placement = Placement(0, 0, 2, 2, 4, 6)
    back = placement.to_image_size(np.array([[1, 2], [3, 4]], np.int64), labels=True)
    assert back.dtype == np.int64
    assert back.tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    placement = Placement(0, 0, 3, 3, 1, 1)
    assert placement.to_image_size(np.arange(9).reshape(3, 3), labels=True).tolist() == [[4]]


@pytest.mark.parametrize("size", [(10, 30), (31, 12), (16, 24)])
@pytest.mark.parametrize("stride", [1, 4])
def test_what_was_not_seen_has_no_value(size, stride):
    fit = Fit(height=16, width=24, mode="crop")
    _, placement = fit_image(np.zeros((*size, 3), np.uint8), fit)
    placement = placement.at_stride(stride)
    sides = 16 // stride, 24 // stride
    labels = RNG.integers(0, 19, sides, dtype=np.uint8)
    top, left, rows, columns = middle(*size, fit)
    expected = np.full(size, 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            source = (row + 0.5) * sides[0] / rows, (column + 0.5) * sides[1] / columns
            expected[top + row, left + column] = labels[int(source[0]), int(source[1])]
    back = placement.to_image_size(labels, labels=True)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, expected)
    wide = placement.to_image_size(labels, labels=True, unseen=65535)
    unseen = np.full(size, True)
    unseen[top : top + rows, left : left + columns] = False
    assert wide.dtype == (np.uint16 if unseen.any() else np.uint8)
    assert (wide[unseen] == 65535).all()
    np.testing.assert_array_equal(wide[~unseen], expected[~unseen])
    metres = RNG.random(sides, dtype=np.float32)
    vectors = placement.to_image_size(np.stack([metres, metres], -1), labels=False)
    resized = PIL.Image.fromarray(metres).resize((columns, rows), PIL.Image.Resampling.BILINEAR)
    assert vectors.shape == (*size, 2)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(placement.seen(vectors)[..., 1], np.asarray(resized))
    np.testing.assert_array_equal(np.isnan(vectors), np.stack([unseen, unseen], -1))


def test_crop_is_a_view_of_the_content():
    placement = Placement(1, 2, 3, 4, 30, 40)
    array = np.arange(5 * 8).reshape(5, 8)
    assert np.shares_memory(placement.crop(array), array)
    np.testing.assert_array_equal(placement.crop(array), array[1:4, 2:6])
    assert placement.crop(np.zeros((5, 8, 3))).shape == (3, 4, 3)


@pytest.mark.parametrize("shape", [(1, 5, 8), (1, 5, 8, 3), (3, 8), (5, 5), (5,)])
def test_crop_refuses_other_sizes(shape):
    with pytest.raises(ShapeError, match="of a batch give one map") as caught:
        Placement(1, 2, 3, 4, 30, 40).crop(np.zeros(shape))
    assert str(shape) in str(caught.value)


# ---- normalise, imports, speed ----


def test_normalise():
    images = RNG.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    result = normalise(images)
    assert result.shape == (2, 3, 4, 5)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    for channel in range(3):
        expected = (images[..., channel] / 255.0 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(result[:, channel], expected, atol=1e-5)
    padding = normalise(np.array(MEAN_COLOUR, np.uint8).reshape(1, 1, 1, 3))
    assert abs(padding).max() <= 0.5 / 255 / min(STD)


def test_imports_stay_light():
    code = (
        "import sys, degmix_edge.preprocess, degmix_edge.metrics\n"
        "heavy = {'torch', 'scipy', 'cv2', 'onnx', 'onnxruntime', 'skimage'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_camera_frame_takes_milliseconds():
    frame = RNG.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    fit = Fit(height=448, width=576)
    best_s = min(timeit.repeat(lambda: fit_image(frame, fit), number=1, repeat=20))
    assert best_s < 0.02  # about 2 ms on a quiet laptop core; ten times that is a lost fast path


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_and_keeps_its_size(tmp_path, orientation):
    photo = PIL.Image.fromarray(skimage.data.coffee()).resize((5600, 3200))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "large.jpg"
    photo.save(path, quality=90, exif=exif)
    fit = Fit(height=192, width=256)
    tracemalloc.start()
    small, placement = fit_image(path, fit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = read_image(path)
    expected, where = fit_image(whole, fit)
    assert placement == where
    assert whole.size > 50e6
    assert peak < whole.size / 4
    difference = np.abs(small.astype(int) - expected)
    assert difference.mean() < 1
    assert np.percentile(difference, 99) <= 6


@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [(120, 160), (40, 150), (333, 111)])
def test_maps_and_cameras_move_with_the_picture(mode, size):
    """A map of coordinates says where each pixel came from, and the camera has to agree."""
    fit = Fit(height=64, width=96, mode=mode)
    rows, columns = np.mgrid[: size[0], : size[1]]
    came = fit_map(np.stack([columns, rows], -1).astype(np.uint16), fit, pad=-1)
    placement = fit_image(np.zeros((*size, 3), np.uint8), fit)[1]
    inside = placement.crop(came)
    assert inside.min() >= 0
    assert (came < 0).sum() == 2 * (64 * 96 - inside[..., 0].size)
    camera = np.array([[200.0, 0, 70.5], [0, 190.0, 33.25], [0, 0, 1]])
    moved = fit_intrinsics(camera, placement)
    here = np.stack(np.meshgrid(np.arange(96), np.arange(64)), -1)[came[..., 0] >= 0]
    x, y = came[came[..., 0] >= 0].T
    rays = np.linalg.inv(camera) @ np.stack([x, y, np.ones_like(x)])
    seen = (moved @ rays)[:2].T
    # The nearest pixel is at most half a pixel of the picture away, and on average it is not.
    scale = max(1.0, moved[0, 0] / camera[0, 0], moved[1, 1] / camera[1, 1])
    assert np.abs(seen - here).max() <= 0.5 * scale + 0.01
    assert np.abs((seen - here).mean(0)).max() < 0.1
