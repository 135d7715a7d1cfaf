"""CUDA's driver through NVIDIA's cuda-bindings, which has wheels for x86-64 and aarch64."""

from __future__ import annotations

import ctypes
import math
from importlib import import_module
from typing import Any

import numpy as np

from degmix_edge.nvidia import driver as base


class DriverError(Exception):
    """A function of the driver failed."""


class Driver(base.Driver):
    """The driver through `cuda.bindings.driver`, whose functions return a status and results."""

    error = DriverError

    def __init__(self) -> None:
        self._cuda = import_module("cuda.bindings.driver")
        self.name = f"cuda-bindings {import_module('cuda.bindings').__version__}"
        self.toolkit = int(self._cuda.CUDA_VERSION)
        try:
            self.call("cuInit", 0)
        except RuntimeError as error:  # the library is opened by the first call
            raise ImportError(str(error)) from None

    def version(self) -> int:
        return int(self.call("cuDriverGetVersion"))

    def count(self) -> int:
        return int(self.call("cuDeviceGetCount"))

    def info(self, index: int) -> base.DeviceInfo:
        card, attribute = self.call("cuDeviceGet", index), self._cuda.CUdevice_attribute

        def value(name: str) -> int:
            member = getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self.call("cuDeviceGetAttribute", member, card))

        major, minor = value("COMPUTE_CAPABILITY_MAJOR"), value("COMPUTE_CAPABILITY_MINOR")
        return base.DeviceInfo(
            index,
            self.call("cuDeviceGetName", 256, card).partition(b"\0")[0].decode(),
            10 * major + minor,
            int(self.call("cuDeviceTotalMem", card)),
            bool(value("INTEGRATED")),
            self.version(),
        )

    def retain(self, index: int) -> base.Context:
        return _Context(self, self.call("cuDeviceGet", index))

    def free_bytes(self) -> int:
        return int(self.call("cuMemGetInfo")[0])

    def memory(self, size: int) -> base.Memory:
        return _Memory(self, size)

    def host_memory(self, shape: tuple[int, ...], dtype: Any, is_mapped: bool) -> base.HostMemory:
        return _HostMemory(self, shape, np.dtype(dtype), is_mapped)

    def stream(self) -> base.Stream:
        return _Stream(self, self.call("cuStreamCreate", self._cuda.CUstream_flags(1)))

    def event(self) -> base.Event:
        return _Event(self, self.call("cuEventCreate", 0))

    def begin_capture(self, stream: int) -> None:
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        return int(self.call("cuStreamEndCapture", stream))

    def destroy_graph(self, graph: int) -> None:
        self.call("cuGraphDestroy", graph)

    def instantiate(self, graph: int) -> int:
        return int(self.call("cuGraphInstantiate", graph, 0))

    def launch(self, executable: int, stream: int) -> None:
        self.call("cuGraphLaunch", executable, stream)

    def destroy_executable(self, executable: int) -> None:
        self.call("cuGraphExecDestroy", executable)

    def synchronize(self, stream: int) -> None:
        self.call("cuStreamSynchronize", stream)

    def device_of(self, pointer: int) -> int:
        ordinal = self._cuda.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self.call("cuPointerGetAttribute", ordinal, pointer))

    def is_page_locked(self, pointer: int) -> bool:
        kind = self._cuda.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        try:
            return int(self.call("cuPointerGetAttribute", kind, pointer)) == base.MEMORY_OF_HOST
        except DriverError:  # memory that the driver does not know
            return False

    def call(self, name: str, *arguments: Any) -> Any:
        """The results of a function of the driver: none, one, or a tuple of them.

        Raises:
            DriverError: It failed.
        """
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            _, text = self._cuda.cuGetErrorString(status)
            reason = "unknown error" if text is None else text.decode()
            raise DriverError(f"{name} failed: {reason}")
        return results[0] if len(results) == 1 else tuple(results)


class _Context(base.Context):
    def __init__(self, driver: Driver, card: Any) -> None:
        self._driver, self._card = driver, card
        self._context = driver.call("cuDevicePrimaryCtxRetain", card)

    def push(self) -> None:
        self._driver.call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        self._driver.call("cuCtxPopCurrent")

    def release(self) -> None:
        self._driver.call("cuDevicePrimaryCtxRelease", self._card)


class _Memory(base.Memory):
    def __init__(self, driver: Driver, size: int) -> None:
        self._driver = driver
        self.pointer = int(driver.call("cuMemAlloc", max(size, 1)))

    def close(self) -> None:
        self._driver.call("cuMemFree", self.pointer)


class _HostMemory(base.HostMemory):
    def __init__(
        self, driver: Driver, shape: tuple[int, ...], dtype: np.dtype[Any], is_mapped: bool
    ) -> None:
        size = max(math.prod(shape) * dtype.itemsize, 1)
        flags = 2 if is_mapped else 0  # CU_MEMHOSTALLOC_DEVICEMAP
        self._driver, self._address = driver, int(driver.call("cuMemHostAlloc", size, flags))
        memory: Any = (ctypes.c_ubyte * size).from_address(self._address)
        self.array = np.ndarray(shape, dtype, memory)
        self.pointer = 0
        if is_mapped:
            self.pointer = int(driver.call("cuMemHostGetDevicePointer", self._address, 0))

    def close(self) -> None:
        self._driver.call("cuMemFreeHost", self._address)


class _Event(base.Event):
    def __init__(self, driver: Driver, event: Any) -> None:
        self._driver, self._event = driver, event

    def record(self, stream: Any) -> None:
        self._driver.call("cuEventRecord", self._event, stream.handle)

    def milliseconds_since(self, start: Any) -> float:
        return float(self._driver.call("cuEventElapsedTime", start._event, self._event))

    def close(self) -> None:
        if self._event is not None:
            event, self._event = self._event, None
            self._driver.call("cuEventDestroy", event)


class _Stream(base.Stream):
    def __init__(self, driver: Driver, stream: Any) -> None:
        self._driver, self.handle = driver, int(stream)

    def upload(self, pointer: int, array: Any) -> None:
        address = array.ctypes.data
        self._driver.call("cuMemcpyHtoDAsync", pointer, address, array.nbytes, self.handle)

    def download(self, array: Any, pointer: int) -> None:
        address = array.ctypes.data
        self._driver.call("cuMemcpyDtoHAsync", address, pointer, array.nbytes, self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        self._driver.call("cuMemcpyDtoDAsync", target, source, size, self.handle)

    def synchronize(self) -> None:
        self._driver.synchronize(self.handle)

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            self._driver.call("cuStreamDestroy", handle)
