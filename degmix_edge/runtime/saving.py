"""Task maps as files that other programs read: PNG by task, and one NPZ with all arrays."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image

from degmix_edge.errors import ConfigError
from degmix_edge.files import check_file, make_folder, write_file
from degmix_edge.tasks import TaskSpec, colour, look

PNG, NPY = "png", "npy"
"""How a map is encoded: a picture of numbers, as `Maps.save` describes, or numpy's own file."""


def write_maps(
    folder: Path, stem: str, arrays: Mapping[str, np.ndarray], specs: Mapping[str, TaskSpec]
) -> list[Path]:
    """Write `<stem>.<task>.png` by task, where it has one, and `<stem>.npz`; return the paths.

    Each file is written whole or not at all, and files that exist are replaced. `Maps.save`
    describes the formats.

    Args:
        folder: The folder to write into; it is made if it does not exist.
        stem: The beginning of every file name.
        arrays: The maps by task, as `TaskSpec.map_spec` says, without the batch dimension.
        specs: The task of each map.

    Raises:
        ConfigError: `stem` is not a plain file name.
        OutputError: The folder or a file cannot be written.
    """
    if not stem or Path(stem).name != stem:
        raise ConfigError(
            f"stem: got {stem!r}, expected the beginning of a file name without folders, such as "
            "'frame_0001'; name the folder in the first argument"
        )
    make_folder(folder)
    pictures = {
        name: folder / f"{stem}.{name}.png" for name in arrays if encoding(specs[name]) == PNG
    }
    archive = folder / f"{stem}.npz"
    for path in (*pictures.values(), archive):
        check_file(path, force=True)
    for name, path in pictures.items():
        write_file(path, encode_png(arrays[name], specs[name]), force=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_file(archive, buffer.getvalue(), force=True)
    return [*pictures.values(), archive]


def encode_png(array: np.ndarray, spec: TaskSpec, level: int = -1) -> bytes:
    """One map as the bytes of a PNG file whose pixels are numbers, as `Maps.save` describes.

    Args:
        array: The map.
        spec: Its task.
        level: How hard zlib tries, from 0 to 9; -1 is its default.
    """
    buffer = io.BytesIO()
    _picture(array, spec).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def encoding(spec: TaskSpec) -> str:
    """Return how `encode` writes maps of a task: `png`, or `npy` where PNG has no such numbers."""
    has_picture = not spec.is_raw and look(spec) in ("classes", "grey", "ramp", "normal")
    return PNG if has_picture else NPY


def encode(array: np.ndarray, spec: TaskSpec, level: int = -1) -> bytes:
    """Return a map as bytes: a PNG file as `encode_png` makes it, or numpy's own file."""
    if encoding(spec) == PNG:
        return encode_png(array, spec, level)
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def read_map(data: bytes, spec: TaskSpec) -> np.ndarray:
    """Return the map that `encode` made bytes of, in the task's own unit, but for the rounding."""
    if encoding(spec) == NPY:
        return np.asarray(np.load(io.BytesIO(data)))
    pixels = np.asarray(PIL.Image.open(io.BytesIO(data)))
    scales = {"ramp": 1 / 1000, "grey": 1 / 255, "normal": 2 / 255}
    shown = look(spec)
    if shown == "classes":
        return pixels
    return np.asarray(pixels * scales[shown] - (shown == "normal"), np.float32)


def _picture(array: np.ndarray, spec: TaskSpec) -> PIL.Image.Image:
    shown = look(spec)
    if shown == "classes" and array.dtype == np.uint16:
        return PIL.Image.fromarray(np.asarray(array))
    if shown == "classes":
        picture = PIL.Image.fromarray(np.asarray(array, np.uint8))
        # All 256 colours are given, because Pillow packs the pixels of a shorter palette into
        # fewer than 8 bits.
        picture.putpalette(colour(np.arange(256, dtype=np.uint8)[None], spec).tobytes())
        return picture
    if shown == "ramp":
        return PIL.Image.fromarray(_scaled(array, 1000, np.uint16))
    if shown == "normal":
        return PIL.Image.fromarray(_scaled((np.asarray(array, np.float64) + 1) / 2, 255, np.uint8))
    return PIL.Image.fromarray(_scaled(array, 255, np.uint8))


def _scaled(array: np.ndarray, factor: float, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """`array * factor`, rounded and clipped to what `dtype` holds; NaN becomes 0."""
    largest = np.iinfo(dtype).max
    # float64, because a float32 product can round to the wrong side of a half.
    values = np.nan_to_num(np.asarray(array, np.float64) * factor, posinf=largest, neginf=0)
    return np.clip(np.rint(values), 0, largest).astype(dtype)
