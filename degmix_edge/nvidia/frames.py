"""Frames of cameras on a device: how they get there, and the kernel that fits them to the network.

A frame crosses the bus once, as the camera wrote it: from the caller's own memory where that is
page-locked, else through page-locked memory of the lane's. A frame on the device does not move.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from degmix_edge.camera import KERNEL_FORMATS, RawFrame
from degmix_edge.errors import BackendError, CudaError, InputError
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import foreign_image
from degmix_edge.nvidia.driver import Stream

VERSION = "1"
"""Of the C interface in plugins/kernels/degmix_kernels.h."""
CHANNELS_LAST = 1
ALIGNMENT = 256
"""Bytes on which each of several frames in one buffer begins."""


class FitImageParams(ctypes.Structure):
    """The struct of that name in plugins/fit_image/fit_image.h."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("source", "chroma", "output")]
        + [(name, ctypes.c_int32) for name in ("format", "height", "width", "pitch")]
        + [("chroma_pitch", ctypes.c_int32)]
        + [(f"window_{name}", ctypes.c_int32) for name in ("top", "left", "height", "width")]
        + [(name, ctypes.c_int32) for name in ("out_height", "out_width", "top", "left")]
        + [(name, ctypes.c_int32) for name in ("placed_height", "placed_width", "layout")]
        + [("pad", ctypes.c_int32 * 3)]
    )


class FitKernel:
    """The kernel `fit_image` of our library.

    Raises:
        BackendError: The file is no library of ours for this machine, or of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
            version = library.degmix_kernels_version
            version.restype = ctypes.c_char_p
            self._launch, self._check = library.degmix_fit_image, library.degmix_fit_image_check
            self._text = library.degmix_error_string
        except (OSError, AttributeError) as error:
            raise BackendError(
                f"{path}: no library of our kernels for this machine, or an older one ({error}); "
                f"`make plugin` builds it"
            ) from None
        if version().decode() != VERSION:
            raise BackendError(
                f"{path}: version {version().decode()} of our kernels, expected {VERSION}; "
                f"`make plugin` builds it"
            )
        self.path = path
        self._launch.argtypes = [ctypes.POINTER(FitImageParams), ctypes.c_void_p]
        self._check.argtypes = [ctypes.POINTER(FitImageParams)]
        self._check.restype = self._text.restype = ctypes.c_char_p

    def check(self, params: FitImageParams) -> None:
        """Check the sizes of a launch.

        Raises:
            InputError: The kernel refuses them.
        """
        reason = self._check(ctypes.byref(params))
        if reason is not None:
            raise InputError(
                f"image: got {params.height}x{params.width} (height x width), which the kernel "
                f"refuses: {reason.decode()}"
            )

    def enqueue(self, params: FitImageParams, stream: int) -> None:
        """Fit a frame on a stream, asynchronously; a context is current.

        Raises:
            CudaError: CUDA refuses the launch.
        """
        status = self._launch(ctypes.byref(params), stream)
        if status != 0:
            raise CudaError(f"{self.path}: a frame is not fitted: {self._text(status).decode()}")


@dataclass(frozen=True)
class Source:
    """Where a frame is on the device.

    Attributes:
        pointer: Address of its first row.
        pitch: Bytes from row to row.
        upload: The page-locked array that has to be copied to `pointer`; None where there is none.
        owner: Keeps the memory.
    """

    pointer: int
    pitch: int
    upload: np.ndarray | None
    owner: Any


Target: TypeAlias = tuple[RawFrame, cuda.Buffer, int]
"""A frame, the input `(N, H, W, 3)` that it becomes, and its index there."""


@dataclass(frozen=True)
class Fitting:
    """A frame that is about to be fitted.

    Attributes:
        source: Where it is.
        params: The launch.
    """

    source: Source
    params: FitImageParams


class FrameStage:
    """The frames of one lane's call. A context is current in every call, and the stream is done.

    Its memory grows with the frames, and stays. The lane closes it.
    """

    def __init__(self, device: cuda.Device, kernel: FitKernel) -> None:
        self._device, self._kernel = device, kernel
        self._buffer: cuda.Buffer | None = None

    def put(self, targets: Sequence[Target], stream: Stream) -> list[Fitting]:
        """Find each frame's place, and copy frames of the host to page-locked memory.

        Raises:
            CudaError: A frame on the device is on another one, freed, or not contiguous in a row;
                or there is no memory.
            InputError: The kernel refuses the sizes of a frame.
        """
        images = [frame.image for frame, _, _ in targets]
        sizes = [_aligned(i.nbytes) if isinstance(i, np.ndarray) else 0 for i in images]
        self._reserve(sum(sizes))
        fittings, offset = [], 0
        for target, size in zip(targets, sizes, strict=True):
            image = target[0].image
            source = self._stage(image, offset) if size else self._find(image, stream)
            fittings.append(Fitting(source, _params(source, *target)))
            self._kernel.check(fittings[-1].params)
            offset += size
        return fittings

    def enqueue(self, fittings: Sequence[Fitting], stream: Stream) -> None:
        """Launch the kernel for each frame.

        Raises:
            CudaError: CUDA refuses the launch.
        """
        for fitting in fittings:
            self._kernel.enqueue(fitting.params, stream.handle)

    def close(self) -> None:
        """Free the memory. A second time does nothing."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.close()

    def _reserve(self, size: int) -> None:
        if size and (self._buffer is None or self._buffer.host.nbytes < size):
            self.close()
            self._buffer = cuda.Buffer(self._device, (size,), np.uint8)

    def _stage(self, array: np.ndarray, offset: int) -> Source:
        buffer = self._buffer
        assert buffer is not None
        pitch, pointer = array.nbytes // len(array), buffer.pointer + offset
        is_direct = not buffer.is_mapped and array.flags.c_contiguous
        if is_direct and cuda.is_page_locked(array):
            return Source(pointer, pitch, array, array)
        place = buffer.host[offset : offset + array.nbytes]
        place.reshape(array.shape)[...] = array
        return Source(pointer, pitch, None if buffer.is_mapped else place, buffer)

    def _find(self, image: Any, stream: Stream) -> Source:
        index = self._device.info.index
        found = foreign_image(image, index, stream.handle, is_pitched=True)
        if found is None:
            raise CudaError(f"got {type(image).__name__}, expected an array on device {index}")
        found.wait()
        return Source(found.pointer, found.pitch, None, found)


def _params(source: Source, frame: RawFrame, target: cuda.Buffer, index: int) -> FitImageParams:
    """The launch that writes image `index` of a batch."""
    _, height, width, channels = target.host.shape
    params = FitImageParams(
        source=source.pointer,
        output=target.pointer + index * height * width * channels,
        format=KERNEL_FORMATS.index(frame.kind),
        pitch=source.pitch,
        out_height=height,
        out_width=width,
        layout=CHANNELS_LAST,
        pad=(ctypes.c_int32 * 3)(*frame.pad),
    )
    params.height, params.width = frame.size
    if frame.kind == "nv12":
        params.chroma = source.pointer + frame.size[0] * source.pitch
        params.chroma_pitch = source.pitch
    window, place = frame.window, frame.place
    params.window_top, params.window_left, params.window_height, params.window_width = window
    params.top, params.left, params.placed_height, params.placed_width = place
    return params


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
