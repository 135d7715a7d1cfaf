"""Frames of a network with several inputs: a folder that has a folder for each input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.errors import InputError
from degmix_edge.network import IMAGE, InputSpec, NetworkSpec
from degmix_edge.preprocess import ENDINGS, list_images
from degmix_edge.runtime.frames import ARRAYS, endings_of


def needed_inputs(network: NetworkSpec | None) -> list[InputSpec]:
    """Return what a frame of a network must have beside the image."""
    return [] if network is None else [one for one in network.inputs if one.kind != "state"]


def frame_paths(folder: Path, network: NetworkSpec) -> dict[str, dict[str, Path]]:
    """Return the files of each frame by input, by the frame's name, in the order of the names.

    FOLDER/image holds the images, or what the network takes in their place, and FOLDER/INPUT the
    other inputs under the same names: pictures, or arrays as .npy and .txt. One file
    FOLDER/INPUT.npy or .txt is for all frames.

    Raises:
        InputError: There is no such folder, or a frame lacks an input.
    """
    others = needed_inputs(network)
    if not (folder / IMAGE).is_dir():
        wanted = ", ".join(str(folder / name) for name in (IMAGE, *(one.name for one in others)))
        raise InputError(
            f"{folder}: the network {network.model!r} takes more than an image; expected the "
            f"folders {wanted}, with files of the same names (one .npy or .txt file in the place "
            "of a folder is for all frames)"
        )
    frames = {}
    for image in list_images(folder / IMAGE, endings_of(network)):
        name = image.relative_to(folder / IMAGE).with_suffix("")
        found = {one.name: _file_of(folder, one.name, name) for one in others}
        frames[str(name)] = {IMAGE: image, **found}
    return frames


def _file_of(folder: Path, name: str, stem: Path) -> Path:
    """The file with an input's value in one frame.

    Raises:
        InputError: There is none.
    """
    for ending in (*ARRAYS, *ENDINGS):
        for path in (folder / name / f"{stem}{ending}", folder / f"{name}{ending}"):
            if path.is_file():
                return path
    raise InputError(
        f"{folder / name}: has no {stem} with one of {', '.join((*ARRAYS, *ENDINGS))}; every frame "
        f"in {folder / IMAGE} needs one"
    )


def made_up_frame(pixels: np.ndarray, first: np.ndarray, network: NetworkSpec) -> dict[str, Any]:
    """Return a frame for checks where the user gave none: plausible inputs beside the first.

    A second image is `pixels`, moved by a few pixels; a map is a ramp from 1 to 4; the camera has
    a field of view of 53 degrees; a tensor has values from -1 to 1.
    """
    height, width = pixels.shape[:2]
    rng = np.random.default_rng(0)
    frame: dict[str, Any] = {IMAGE: first}
    for one in needed_inputs(network):
        if one.kind == "image":
            frame[one.name] = np.roll(pixels, -4, axis=1)
        elif one.kind == "map":
            channels = one.shape[1] if len(one.shape) == 4 else 1
            ramp = np.linspace(4, 1, height, dtype=np.float32)[:, None, None]
            frame[one.name] = np.broadcast_to(ramp, (height, width, channels))
        elif one.kind == "intrinsics":
            centre = (width - 1) / 2, (height - 1) / 2
            frame[one.name] = np.array([[width, 0, centre[0]], [0, width, centre[1]], [0, 0, 1.0]])
        else:
            shape = network.row_shape(one.tensor_spec)
            frame[one.name] = rng.uniform(-1, 1, shape).astype(one.dtype)
    return frame
