"""A picture to the network's input, and a map back onto the picture.

The one copy that training, calibration, run and compare use. The network's input is uint8 RGB
`(H, W, 3)` of a fixed size; normalisation is part of the ONNX graph, and `normalise` is the same
arithmetic for the network in torch.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import PIL.Image
import PIL.ImageOps
from pydantic import BaseModel, ConfigDict, Field

from degmix_edge.errors import InputError, ShapeError

Image: TypeAlias = np.ndarray | str | os.PathLike[str] | PIL.Image.Image
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB, as fractions of 255."""
MEAN_COLOUR = (124, 116, 104)
"""MEAN as a colour: padding with it is zero after normalisation, to within half a grey level."""

_WANTED = "expected a uint8 RGB array of shape (height, width, 3)"
_SIXTEEN_BIT = (
    "a picture of full 16 bits becomes (np.asarray(image) // 257).astype(np.uint8), one of 12 bits "
    "takes // 16; a depth or thermal image is no input of this network"
)
_Byte = Annotated[int, Field(ge=0, le=255)]


class Fit(BaseModel):
    """How a picture of any size becomes the network's input.

    Attributes:
        height: Rows of the network's input.
        width: Columns of the network's input.
        mode: `letterbox` keeps the aspect ratio and pads what is left, half on either side;
            `stretch` fills the input and changes the aspect ratio.
        pad: RGB colour of the padding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    mode: Literal["letterbox", "stretch"] = "letterbox"
    pad: tuple[_Byte, _Byte, _Byte] = MEAN_COLOUR

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True)
class Placement:
    """Where the picture lies inside the network's input, in pixels, and how large it was."""

    top: int
    left: int
    height: int
    width: int
    image_height: int
    image_width: int

    def crop(self, array: np.ndarray) -> np.ndarray:
        """The picture's part of one map `(H, W)` or `(H, W, C)` at input size; a view.

        Raises:
            ShapeError: The map is smaller than the picture's part, or has a batch dimension.
        """
        bottom, right = self.top + self.height, self.left + self.width
        if array.ndim not in (2, 3) or array.shape[0] < bottom or array.shape[1] < right:
            raise ShapeError(
                f"got a map of shape {array.shape}, expected (H, W) or (H, W, C) of the size of "
                f"the network's input, at least {bottom} x {right}; of a batch give one map"
            )
        return array[self.top : bottom, self.left : right]

    def to_image_size(self, array: np.ndarray, labels: bool) -> np.ndarray:
        """One map `(H, W)` or `(H, W, C)` at input size onto the picture's own size.

        Args:
            array: The map, padding included.
            labels: True takes the nearest pixel and keeps the dtype. False blends, bilinear, and
                gives float32; blended unit vectors come out shorter than 1.

        Raises:
            ShapeError: See `crop`.
        """
        content = self.crop(array)
        if labels:
            rows = _nearest(self.image_height, self.height)
            columns = _nearest(self.image_width, self.width)
            nearest: np.ndarray = content[rows[:, None], columns]
            return nearest
        # Pillow resizes float32 one channel at a time.
        planes = content.astype(np.float32).reshape(*content.shape[:2], -1)
        size = self.image_height, self.image_width
        resized = [_resize(planes[..., c], *size) for c in range(planes.shape[2])]
        return np.stack(resized, axis=-1).reshape(*size, *content.shape[2:])


def fit_image(image: Image, fit: Fit) -> tuple[np.ndarray, Placement]:
    """The network's input `(fit.height, fit.width, 3)`, uint8 and C-contiguous, and its placement.

    Resizing is Pillow's bilinear filter, which widens where the picture shrinks, so that fine
    texture does not alias. An array that already has the size comes back without a copy.

    Raises:
        InputError: See `read_image`.
    """
    pixels = read_image(image)
    image_height, image_width = pixels.shape[:2]
    height, width = fit.height, fit.width
    if fit.mode == "letterbox":
        scale = min(fit.height / image_height, fit.width / image_width)
        height = min(fit.height, max(1, round(image_height * scale)))
        width = min(fit.width, max(1, round(image_width * scale)))
    top, left = (fit.height - height) // 2, (fit.width - width) // 2
    placement = Placement(top, left, height, width, image_height, image_width)
    pixels = np.ascontiguousarray(_resize(pixels, height, width))
    if (height, width) == (fit.height, fit.width):
        return pixels, placement
    canvas = np.empty((fit.height, fit.width, 3), np.uint8)
    # Only the strips are filled: painting the whole canvas first takes longer than all the copying.
    canvas[:top] = canvas[top + height :] = fit.pad
    canvas[:, :left] = canvas[:, left + width :] = fit.pad
    canvas[top : top + height, left : left + width] = pixels
    return canvas, placement


def normalise(
    images: np.ndarray, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> np.ndarray:
    """uint8 RGB `(N, H, W, 3)` to what a network in torch takes: float32 `(N, 3, H, W)`."""
    planes = np.moveaxis(images, -1, 1).astype(np.float32, order="C")
    planes -= np.array(mean, np.float32)[:, None, None] * 255
    planes /= np.array(std, np.float32)[:, None, None] * 255
    return planes


def read_image(source: Image) -> np.ndarray:
    """RGB pixels `(H, W, 3)`, uint8, of a file, a Pillow image or an array.

    Files and Pillow images are turned upright by their EXIF orientation; of an animation the first
    frame counts. Grey is repeated. Transparent pixels have no colour of their own, so they are laid
    over the mean colour, which is the network's "nothing". An array is `(H, W)`, `(H, W, 1)`, RGB
    or RGBA; OpenCV's BGR cannot be told from RGB: reverse it first. An RGB array is not copied.

    Raises:
        InputError: There is no such file, it cannot be read, or its pixels are no 8-bit colours. 16
            and 32 bits and floats are refused, never scaled: the range that they use is not in the
            data, and a depth image would silently become a picture.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, PIL.Image.Image):
        return _from_pillow(source, "image")
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source))
    raise InputError(
        f"image: got {type(source).__name__}, expected a path, a Pillow image or a numpy array"
    )


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Images in `folder` and all folders below it, sorted by path; hidden ones are left out.

    Raises:
        InputError: There is no such folder, or no image in it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder}: is a file, expected a folder; give {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.{_nearest_name(folder)}")
    # Hidden: macOS writes a `._photo.jpg` beside every photo on a USB stick, and it is no picture.
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    images = [path for path in files if path.suffix.lower() in ENDINGS]
    if not images:
        raise InputError(
            f"{folder}: no images among its {len(files)} files; looked for {', '.join(ENDINGS)} "
            f"here and in all folders below; convert other formats"
        )
    return images


def _from_file(path: Path) -> np.ndarray:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected an image file; give one of its files")
        if not path.exists():
            raise InputError(f"{path}: no such file.{_nearest_name(path)}")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); copy or record it again")
        with PIL.Image.open(path) as image:
            return _from_pillow(image, str(path))
    except InputError:
        raise
    except PIL.UnidentifiedImageError:
        problem = "is no image in a format that Pillow reads; convert it to PNG or JPEG"
    except PIL.Image.DecompressionBombError as error:
        problem = f"is too large ({error}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS"
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file
        problem = f"cannot be opened ({error}); check its permissions, or copy it again"
    raise InputError(f"{path}: {problem}")


def _from_pillow(image: PIL.Image.Image, name: str) -> np.ndarray:
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels (size {image.size}), {_WANTED}")
    # Colour pictures of 16 bits a channel are not among these: Pillow opens them as 8-bit RGB.
    if image.mode.startswith(("I", "F")):
        bits = 16 if "16" in image.mode else 32
        raise InputError(
            f"{name}: got {bits}-bit pixels (Pillow mode {image.mode}), expected 8; {_SIXTEEN_BIT}"
        )
    try:
        image = PIL.ImageOps.exif_transpose(image)
        rgba = image.convert("RGBA") if image.has_transparency_data else None
        image = image.convert("RGB")
    except Exception as error:  # the pixels are only decoded here; see _from_file
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
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        chw = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        turn = "; channels come last: image.transpose(1, 2, 0)" if chw else ""
        raise InputError(f"{got}, {_WANTED}{turn}")
    if array.dtype != np.uint8:
        raise InputError(
            f"{got} with values {array.min()}..{array.max()}, {_WANTED}; {_cast(array)}"
        )
    if grey:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        return _over_mean(PIL.Image.fromarray(array), "image")
    return array


def _cast(array: np.ndarray) -> str:
    """How to make uint8 of an array that is not."""
    if array.dtype.kind in "iu" and array.max() > 255:
        return _SIXTEEN_BIT
    if array.dtype.kind == "b":
        return "give image.astype(np.uint8) * 255"
    if array.dtype.kind == "f" and 0 <= array.min() and array.max() <= 1:
        return "if these are fractions, give (image * 255).round().astype(np.uint8)"
    return "if these are colours 0..255, give image.clip(0, 255).astype(np.uint8)"


def _over_mean(image: PIL.Image.Image, name: str) -> np.ndarray:
    """RGB pixels of an RGBA image laid over the mean colour."""
    if image.getchannel("A").getextrema() == (0, 0):
        # What simulators write into an unused fourth channel; the picture would become one colour.
        raise InputError(f"{name}: is transparent everywhere; give its RGB: image[..., :3]")
    background = PIL.Image.new("RGBA", image.size, (*MEAN_COLOUR, 255))
    return np.array(PIL.Image.alpha_composite(background, image).convert("RGB"))


def _resize(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `(H, W, 3)` or float32 `(H, W)`, bilinear."""
    if array.shape[:2] == (height, width):
        return array
    resized = PIL.Image.fromarray(array).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.array(resized)


def _nearest(size: int, source_size: int) -> np.ndarray:
    """Index into `source_size` pixels of the one under the centre of each of `size` pixels."""
    return ((np.arange(size) + 0.5) * source_size / size).astype(np.intp)


def _nearest_name(path: Path) -> str:
    """A hint for a path that does not exist."""
    folder = path.parent
    if not folder.is_dir():
        return f" Its folder {folder} does not exist either: check the path."
    have = sorted(entry.name for entry in folder.iterdir())
    near = difflib.get_close_matches(path.name, have, n=1, cutoff=0.5)
    return f" Did you mean {folder / near[0]}?" if near else f" Check the path; {folder} exists."
