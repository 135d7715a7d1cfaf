"""Convert a picture to the network's input, and a map back to the size of the picture.

Training, calibration, run and compare all use this module. The network's input is uint8 RGB
`(H, W, 3)` of a fixed size, or a map of numbers such as depth. Normalisation is part of the ONNX
graph; `normalise` does the same arithmetic for a network in torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageOps
from pydantic import BaseModel, ConfigDict, Field

from degmix_edge import pixel_library
from degmix_edge.errors import InputError, ShapeError
from degmix_edge.files import hint_of
from degmix_edge.limits import Side, check_limit

Image: TypeAlias = np.ndarray | str | os.PathLike[str] | PIL.Image.Image | bytes
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Color: TypeAlias = Literal["rgb", "bgr", "grey"]
FitMode: TypeAlias = Literal["letterbox", "stretch", "crop"]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""`MEAN` and `STD` are those of ImageNet's RGB, as fractions of 255."""
MEAN_COLOUR = (124, 116, 104)
"""`MEAN` as a colour; after normalisation such padding is zero to within half a grey level."""

_LARGE_PIXELS = 16_000_000
_JPEG = b"\xff\xd8"
"""How the file of a JPEG begins."""
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: values that exchange height and width
_WANTED = "expected a uint8 RGB array of shape (height, width, 3)"
_SIXTEEN_BIT = (
    "a picture of full 16 bits becomes (np.asarray(image) // 257).astype(np.uint8), one of 12 bits "
    "takes // 16; a depth or thermal image is no picture, and a network for it has color: depth or "
    "other"
)
Byte = Annotated[int, Field(ge=0, le=255)]
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value: ITU-R BT.601, as in OpenCV and Pillow."""
Window: TypeAlias = tuple[int, int, int, int]
"""Top, left, height and width of a part of a picture, in its pixels."""


class Fit(BaseModel):
    """How a picture of any size becomes the network's input.

    Attributes:
        height: Rows of the network's input.
        width: Columns of the network's input.
        mode: `letterbox` keeps the aspect ratio and pads both sides equally; `stretch` fills the
            input and changes the aspect ratio; `crop` keeps the aspect ratio and fills the input
            with the largest window in the middle of the picture, so that its borders are not seen.
        pad: RGB colour of the padding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: Side
    width: Side
    mode: FitMode = "letterbox"
    pad: tuple[Byte, Byte, Byte] = MEAN_COLOUR

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the network's input in pixels."""
        return self.height, self.width

    def window(self, height: int, width: int) -> Window | None:
        """Return the part of a picture of this size that the network sees; None is all of it.

        The window of `crop` has the input's proportions, to within half a pixel of the picture.
        """
        if self.mode != "crop":
            return None
        scale = max(self.height / height, self.width / width)
        rows = min(height, max(1, round(self.height / scale)))
        columns = min(width, max(1, round(self.width / scale)))
        if (rows, columns) == (height, width):
            return None
        return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclass(frozen=True)
class Placement:
    """The picture's area in the network's input and its original size, in pixels.

    Attributes:
        top, left, height, width: The area of the input that shows the picture.
        image_height, image_width: The picture's own size.
        window: The part of the picture that the network sees, in the picture's own pixels; None is
            the whole picture.
    """

    top: int
    left: int
    height: int
    width: int
    image_height: int
    image_width: int
    window: Window | None = None

    def at_stride(self, stride: int) -> Placement:
        """Return the placement in a map that has one pixel for `stride` x `stride` of the input."""
        if stride == 1:
            return self
        top, left = self.top // stride, self.left // stride
        bottom = -(-(self.top + self.height) // stride)
        right = -(-(self.left + self.width) // stride)
        return replace(self, top=top, left=left, height=bottom - top, width=right - left)

    def seen(self, array: np.ndarray) -> np.ndarray:
        """Return the part of an array of the picture's size that the network saw, as a view."""
        if self.window is None:
            return array
        top, left, height, width = self.window
        return array[top : top + height, left : left + width]

    def crop(self, array: np.ndarray) -> np.ndarray:
        """Return the picture's area of one map `(H, W)` or `(H, W, C)` at input size, as a view.

        Raises:
            ShapeError: The map is smaller than the picture's area, or has a batch dimension.
        """
        bottom, right = self.top + self.height, self.left + self.width
        if array.ndim not in (2, 3) or array.shape[0] < bottom or array.shape[1] < right:
            raise ShapeError(
                f"got a map of shape {array.shape}, expected (H, W) or (H, W, C) of the size of "
                f"the network's input, at least {bottom} x {right}; of a batch give one map"
            )
        return array[self.top : bottom, self.left : right]

    def to_image_size(self, array: np.ndarray, labels: bool, unseen: int = 255) -> np.ndarray:
        """Resize one map `(H, W)` or `(H, W, C)` from input size to the picture's own size.

        Pixels outside `window` have no value: they are `unseen` in a map of labels, and NaN in any
        other map.

        Args:
            array: The map, including the padding.
            labels: True takes the nearest pixel and keeps the dtype, unless `unseen` does not fit
                into it. False interpolates bilinearly and returns float32; interpolated unit
                vectors become shorter than 1.
            unseen: The label of pixels that the network did not see.

        Raises:
            ShapeError: `crop` refuses the map.
        """
        content = self.crop(array)
        _, _, *size = self.window or (0, 0, self.image_height, self.image_width)
        if labels:
            rows, columns = (_nearest(*pair) for pair in zip(size, content.shape, strict=False))
            resized: np.ndarray = content[rows[:, None], columns]
        else:
            # Pillow resizes float32 one channel at a time.
            planes = content.astype(np.float32).reshape(*content.shape[:2], -1)
            stacked = np.stack(
                [_resize(planes[..., c], *size) for c in range(planes.shape[2])], axis=-1
            )
            resized = stacked.reshape(*size, *content.shape[2:])
        if self.window is None:
            return resized
        value = unseen if labels else np.nan
        dtype = np.promote_types(resized.dtype, np.min_scalar_type(value))
        whole = np.full((self.image_height, self.image_width, *resized.shape[2:]), value, dtype)
        self.seen(whole)[:] = resized
        return whole


def fit_image(image: Image, fit: Fit) -> tuple[np.ndarray, Placement]:
    """Return the network's input and the placement of the picture in it.

    The input is `(fit.height, fit.width, 3)`, uint8 and C-contiguous. Resizing uses Pillow's
    bilinear filter, which becomes wider when the picture shrinks, so that fine texture does not
    alias. An array that already has the right size is returned without a copy. A JPEG file of more
    than 16 million pixels is decoded at a half, a quarter or an eighth of its size, as long as that
    is at least twice the network's input. This saves memory and changes few pixels, by few levels.

    Raises:
        InputError: `read_image` refuses the image.
    """
    encoded = _encoded(image)
    if encoded is not None:
        pixels, (image_height, image_width) = _decoded(BytesIO(encoded), "image", fit)
    elif isinstance(image, str | os.PathLike):
        pixels, (image_height, image_width) = _from_file(Path(image), fit)
    else:
        pixels = read_image(image)
        image_height, image_width = pixels.shape[:2]
    placement = place(image_height, image_width, fit)
    top, left, height, width = placement.top, placement.left, placement.height, placement.width
    if placement.window is not None:
        # A large JPEG is smaller by now than it is as a file.
        y, x, rows, columns = fit.window(*pixels.shape[:2]) or (0, 0, *pixels.shape[:2])
        pixels = pixels[y : y + rows, x : x + columns]
    pixels = np.ascontiguousarray(_resize(pixels, height, width))
    if (height, width) == (fit.height, fit.width):
        return pixels, placement
    canvas = np.empty((fit.height, fit.width, 3), np.uint8)
    # Only the strips are filled, because filling the whole canvas takes longer than all the copies.
    canvas[:top] = canvas[top + height :] = fit.pad
    canvas[:, :left] = canvas[:, left + width :] = fit.pad
    canvas[top : top + height, left : left + width] = pixels
    return canvas, placement


def place(height: int, width: int, fit: Fit) -> Placement:
    """Return where a picture of this height and width lies in the network's input."""
    rows, columns = fit.height, fit.width
    if fit.mode == "letterbox":
        scale = min(fit.height / height, fit.width / width)
        rows = min(fit.height, max(1, round(height * scale)))
        columns = min(fit.width, max(1, round(width * scale)))
    top, left = (fit.height - rows) // 2, (fit.width - columns) // 2
    return Placement(top, left, rows, columns, height, width, fit.window(height, width))


def fit_map(values: np.ndarray, fit: Fit, pad: float = 0.0) -> np.ndarray:
    """Return a map of a picture at the network's size, where its pixels lie under the picture's.

    A value is that of the nearest pixel, because the mean of two depths is on neither surface.

    Args:
        values: `(H, W)` or `(H, W, C)` of the picture's size, of any numbers.
        fit: How the picture becomes the network's input.
        pad: The value outside the picture, and in place of NaN and infinity.

    Returns:
        float32 `(fit.height, fit.width)`, or with C as the last axis.
    """
    height, width = values.shape[:2]
    placed = place(height, width, fit)
    seen = placed.seen(values)
    rows, columns = (_nearest(placed.height, len(seen)), _nearest(placed.width, seen.shape[1]))
    inside = seen[rows[:, None], columns].astype(np.float32)
    canvas = np.full((fit.height, fit.width, *values.shape[2:]), pad, np.float32)
    bottom, right = placed.top + placed.height, placed.left + placed.width
    canvas[placed.top : bottom, placed.left : right] = np.where(np.isfinite(inside), inside, pad)
    return canvas


def fit_intrinsics(matrix: np.ndarray, placement: Placement) -> np.ndarray:
    """Return the camera matrix `(3, 3)` of the network's input, given that of the picture.

    Pixel centres have whole coordinates, as in OpenCV and ROS.
    """
    whole = (0, 0, placement.image_height, placement.image_width)
    top, left, height, width = placement.window or whole
    across, down = placement.width / width, placement.height / height
    x = placement.left - left * across + (across - 1) / 2
    y = placement.top - top * down + (down - 1) / 2
    moved = np.array([[across, 0, x], [0, down, y], [0, 0, 1]])
    return np.asarray(moved @ np.asarray(matrix, np.float64))


def normalise(
    images: np.ndarray,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    color: Color = "rgb",
) -> np.ndarray:
    """Convert uint8 RGB `(N, H, W, 3)` to float32 `(N, C, H, W)`, the input of a torch network.

    Args:
        images: The pixels.
        mean: By channel of the network, as fractions of 255.
        std: The same.
        color: Order of the network's channels; `grey` is one channel, the weighted mean `GREY`.
    """
    planes = np.moveaxis(images, -1, 1)
    if color == "bgr":
        planes = planes[:, ::-1]
    if color == "grey":
        weights = np.array(GREY, np.float32)[:, None, None]
        planes = (planes.astype(np.float32) * weights).sum(1, keepdims=True)
    planes = planes.astype(np.float32, order="C")
    planes -= np.array(mean, np.float32)[:, None, None] * 255
    planes /= np.array(std, np.float32)[:, None, None] * 255
    return planes


def read_image(source: Image) -> np.ndarray:
    """Return the RGB pixels `(H, W, 3)`, uint8, of a file, its bytes, a Pillow image or an array.

    Files and Pillow images are turned upright by their EXIF orientation; an animation gives its
    first frame. Grey is repeated in all channels. Transparent pixels have no colour of their own,
    so they are laid over the mean colour, which the network sees as zero. An array is `(H, W)`,
    `(H, W, 1)`, RGB or RGBA, and an RGB array is not copied. BGR arrays, as OpenCV has them, look
    like RGB, so reverse their channels first. A frame of a camera that sends MJPEG is the bytes of
    a JPEG file, which may also be an array of one axis.

    Raises:
        InputError: There is no such file, it cannot be read, or its pixels are not 8-bit colours.
            Pixels of 16 or 32 bits and floats are never scaled, because the file does not say which
            range they use, and a depth image would silently become a picture.
    """
    encoded = _encoded(source)
    if encoded is not None:
        return _decoded(BytesIO(encoded), "image")[0]
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, PIL.Image.Image):
        return _from_pillow(source, "image")
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source))[0]
    raise InputError(
        f"image: got {type(source).__name__}, expected a path, a Pillow image, a numpy array or "
        "the bytes of an image file"
    )


def list_images(folder: str | os.PathLike[str], endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Return the images in `folder` and its subfolders, sorted by path, without hidden files.

    Args:
        folder: The folder.
        endings: How the names of images end.

    Raises:
        InputError: There is no such folder, or it has no images.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder}: is a file, expected a folder; give {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.{hint_of(folder)}")
    # Next to every photo on a USB stick macOS writes a hidden `._photo.jpg`, which is no picture.
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    images = [path for path in files if path.suffix.lower() in endings]
    if not images:
        raise InputError(
            f"{folder}: no images among its {len(files)} files; looked for {', '.join(endings)} "
            f"here and in all folders below; convert other formats"
        )
    return images


def _from_file(path: Path, fit: Fit | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of a file, and the upright picture's height and width, which may be larger."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected an image file; give one of its files")
        if not path.exists():
            raise InputError(f"{path}: no such file.{hint_of(path)}")
        if not path.is_file():
            raise InputError(f"{path}: is no regular file, expected an image")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); copy or record it again")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({error}); check its permissions") from None
    return _decoded(path, str(path), fit)


def _encoded(source: object) -> bytes | None:
    """The bytes of an image file that is in memory; None of any other image."""
    if isinstance(source, np.ndarray):
        is_jpeg = source.ndim == 1 and source.dtype == np.uint8 and source[:2].tobytes() == _JPEG
        return source.tobytes() if is_jpeg else None
    return bytes(source) if isinstance(source, bytes | bytearray | memoryview) else None


def _decoded(
    source: Path | BytesIO, name: str, fit: Fit | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of a file or of its bytes, and the upright picture's height and width."""
    try:
        with PIL.Image.open(source) as image:
            num_pixels = image.width * image.height
            check_limit("image_pixels", num_pixels, name, InputError)
            width, height = image.size
            if fit is not None and num_pixels > _LARGE_PIXELS:
                side = 2 * max(fit.height, fit.width)  # whichever way the picture is turned
                image.draft("RGB", (side, side))
            is_turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            pixels = _from_pillow(image, name)
            return pixels, (width, height) if is_turned else (height, width)
    except InputError:
        raise
    except PIL.UnidentifiedImageError:
        problem = "is no image in a format that Pillow reads; convert it to PNG or JPEG"
    except PIL.Image.DecompressionBombError as error:
        problem = f"is too large ({error}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS too"
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        problem = f"cannot be opened ({error}); check its permissions, or copy it again"
    raise InputError(f"{name}: {problem}")


def _from_pillow(image: PIL.Image.Image, name: str) -> np.ndarray:
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels (size {image.size}), {_WANTED}")
    # Colour pictures with 16 bits per channel pass, because Pillow opens them as 8-bit RGB.
    if image.mode.startswith(("I", "F")):
        bits = 16 if "16" in image.mode else 32
        raise InputError(
            f"{name}: got {bits}-bit pixels (Pillow mode {image.mode}), expected 8; {_SIXTEEN_BIT}"
        )
    try:
        image = PIL.ImageOps.exif_transpose(image)
        rgba = image.convert("RGBA") if image.has_transparency_data else None
        image = image.convert("RGB")
    except Exception as error:  # Pillow decodes the pixels only here
        raise InputError(
            f"{name}: damaged, cut off or of an unknown colour mode ({error}, Pillow mode "
            f"{image.mode}); copy it again, or save it as RGB"
        ) from None
    return np.array(image) if rgba is None else _over_mean(rgba, name)


def _from_array(array: np.ndarray) -> np.ndarray:
    got = f"image: got {array.dtype} {array.shape}"
    if array.size == 0:
        raise InputError(f"{got}, which has no pixels, {_WANTED}")
    if array.ndim == 4:
        raise InputError(f"{got}, {_WANTED}; of a batch give one image: image[0]")
    is_grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not is_grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        is_chw = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        advice = "; channels come last: image.transpose(1, 2, 0)" if is_chw else ""
        raise InputError(f"{got}, {_WANTED}{advice}")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{got}, which are no numbers, {_WANTED}")
    if array.dtype != np.uint8:
        raise InputError(
            f"{got} with values {array.min()}..{array.max()}, {_WANTED}; {_cast(array)}"
        )
    if is_grey:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        return _over_mean(PIL.Image.fromarray(array), "image")
    return array


def _cast(array: np.ndarray) -> str:
    """Return advice on how to convert an array to uint8."""
    if array.dtype.kind in "iu" and array.max() > 255:
        return _SIXTEEN_BIT
    if array.dtype.kind == "b":
        return "give image.astype(np.uint8) * 255"
    if array.dtype.kind == "f" and 0 <= array.min() and array.max() <= 1:
        return "if these are fractions, give (image * 255).round().astype(np.uint8)"
    return "if these are colours 0..255, give image.clip(0, 255).astype(np.uint8)"


def _over_mean(image: PIL.Image.Image, name: str) -> np.ndarray:
    """Return the RGB pixels of an RGBA image laid over the mean colour."""
    if image.getchannel("A").getextrema() == (0, 0):
        # Some simulators leave the fourth channel at zero; the picture would become one colour.
        raise InputError(f"{name}: is transparent everywhere; give its RGB: image[..., :3]")
    background = PIL.Image.new("RGBA", image.size, (*MEAN_COLOUR, 255))
    return np.array(PIL.Image.alpha_composite(background, image).convert("RGB"))


def _resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 `(H, W, 3)` or float32 `(H, W)` with the bilinear filter."""
    if array.shape[:2] == (height, width):
        return array
    found = pixel_library.resize(array, height, width) if array.dtype == np.uint8 else None
    if found is not None:
        return found
    resized = PIL.Image.fromarray(array).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.array(resized)


def _nearest(size: int, source_size: int) -> np.ndarray:
    """Return, for each of `size` pixels, the index of the source pixel under its centre."""
    return ((np.arange(size) + 0.5) * source_size / size).astype(np.intp)
