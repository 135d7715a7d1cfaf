"""Tensors on the device, handed to other libraries and taken from them without a copy."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from degmix_edge.camera import DLPACK_CUDA
from degmix_edge.errors import CudaError
from degmix_edge.nvidia.cuda import device_of, wait

DLPACK_CPU = 1
"""The host's memory, in DLPack's numbers of devices."""


class DeviceArray:
    """A tensor on the device for other libraries: `torch.from_dlpack`, CuPy, Numba; no copy.

    It is ready: what wrote it is done. It lives as long as its owner keeps the memory, which is
    until the session's next call on the same lane.
    """

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: Any, device: tuple[int, int], owner: Any
    ) -> None:
        self.pointer, self.shape, self.dtype = pointer, tuple(shape), np.dtype(dtype)
        self._device, self._owner = device, owner

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; no stream to wait for."""
        if self._device[0] != DLPACK_CUDA:
            raise AttributeError("__cuda_array_interface__: not on a CUDA device")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the DLPack device type and the index of the device."""
        return self._device

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        """A capsule of DLPack 0.x; the consumer's stream has nothing to wait for."""
        return _capsule(self)


class _DlTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DlManaged(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DlManaged))
_DlManaged._fields_ = [
    ("tensor", _DlTensor),
    ("context", ctypes.c_void_p),
    ("deleter", _Deleter),
]
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
"""DLPack's codes of types, by numpy's letters; DLPack 0.8 has bool."""
_HANDED_OUT: dict[int, tuple[Any, ...]] = {}
"""Capsules that somebody holds: what they point to must stay."""
_LOCK = threading.Lock()


@_Deleter  # type: ignore[untyped-decorator]
def _forget(managed: Any) -> None:
    with _LOCK:
        _HANDED_OUT.pop(ctypes.addressof(managed.contents), None)


_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NAME = b"dltensor"
"""Name of a capsule that is not consumed; a consumer renames it and calls the deleter itself."""


@_Destructor  # type: ignore[untyped-decorator]
def _drop(capsule: int) -> None:
    # By address: the object is dying, and a reference would bring it back.
    python = ctypes.pythonapi
    python.PyCapsule_IsValid.argtypes = python.PyCapsule_GetPointer.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
    ]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    if python.PyCapsule_IsValid(capsule, NAME):
        with _LOCK:
            _HANDED_OUT.pop(python.PyCapsule_GetPointer(capsule, NAME), None)


def _capsule(array: DeviceArray) -> Any:
    shape = (ctypes.c_int64 * max(len(array.shape), 1))(*array.shape)
    managed = _DlManaged()
    managed.tensor = _DlTensor(
        array.pointer,
        *array._device,
        len(array.shape),
        _CODES[array.dtype.kind],
        8 * array.dtype.itemsize,
        1,
        shape,
        None,
        0,
    )
    managed.deleter = _forget
    with _LOCK:
        _HANDED_OUT[ctypes.addressof(managed)] = (managed, shape, array)
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
    return make(ctypes.addressof(managed), NAME, _drop)


@dataclass(frozen=True)
class ForeignImage:
    """Another library's array on the device.

    Attributes:
        pitch: Bytes from row to row, which is from index to index of the first axis.
        stream: What its writer may still run on; None where nothing is to be waited for.
        owner: Keeps the memory.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    pitch: int
    stream: int | None
    owner: Any

    def wait(self) -> None:
        """Until it is written; the context is current."""
        if self.stream is not None:
            wait(self.stream)


def foreign_image(
    image: Any, device: int, stream: int, *, is_pitched: bool = False
) -> ForeignImage | None:
    """A contiguous device array of another library; None for anything else. A context is current.

    DLPack comes first: its producer makes `stream` wait for what still writes the array. The CUDA
    array interface of some libraries, such as torch, names no stream to wait for.

    Args:
        image: The array.
        device: Index of the device that it must be on.
        stream: Handle of the stream that reads it.
        is_pitched: Rows may have gaps between them.

    Raises:
        CudaError: It is not contiguous, was freed, or is on another device.
    """
    found = _by_dlpack(image, device, stream, is_pitched)
    if found is None and hasattr(image, "__cuda_array_interface__"):
        found = _by_interface(image, is_pitched)
    if found is not None and found.pointer:
        _check_device(device_of(found.pointer), device)
    return found


def _check_device(index: int, device: int) -> None:
    if index != device:
        raise CudaError(
            f"an image on device {index}, the engine runs on device {device}: move it, or load "
            f"the session there"
        )


def _by_interface(image: Any, is_pitched: bool) -> ForeignImage:
    view = image.__cuda_array_interface__
    dtype, shape, strides = np.dtype(view["typestr"]), tuple(view["shape"]), view.get("strides")
    if strides is not None:
        strides = tuple(s // dtype.itemsize for s in strides)
    pitch = _pitch(shape, strides, is_pitched) * dtype.itemsize
    return ForeignImage(int(view["data"][0]), shape, str(dtype), pitch, view.get("stream"), image)


def _by_dlpack(image: Any, device: int, stream: int, is_pitched: bool) -> ForeignImage | None:
    if not hasattr(image, "__dlpack_device__"):
        return None
    kind, index = image.__dlpack_device__()
    if int(kind) != DLPACK_CUDA:
        return None
    _check_device(int(index), device)
    try:
        capsule = image.__dlpack__(stream=stream)
    except BufferError as error:
        raise CudaError(f"an image that its library does not hand out: {error}") from None
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    tensor = _DlManaged.from_address(get(id(capsule), NAME)).tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    kind = {code: letter for letter, code in _CODES.items()}.get(tensor.code, "V")
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    # The capsule is not consumed: it frees the tensor itself once nobody holds it any more.
    pointer = (tensor.data or 0) + tensor.byte_offset
    pitch = _pitch(shape, strides, is_pitched) * dtype.itemsize
    return ForeignImage(pointer, shape, str(dtype), pitch, None, capsule)


def _pitch(shape: tuple[int, ...], strides: tuple[int, ...] | None, is_pitched: bool) -> int:
    """Elements from row to row of an array whose strides are in elements; None is contiguous."""
    packed = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    found = packed if strides is None else strides
    has_gaps = is_pitched and found[1:] == packed[1:] and found[0] > packed[0]
    if found != packed and not has_gaps:
        raise CudaError(f"an image on the device with strides {found}: make it contiguous first")
    return found[0] if found else 1
