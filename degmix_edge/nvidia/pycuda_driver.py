"""CUDA's driver through PyCUDA, and through ctypes what PyCUDA lacks: graphs, foreign pointers.

PyCUDA keeps a stack of contexts beside the driver's own, and destroys a stream or an event with the
last reference to it, while a context must be current.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from typing import Any

from degmix_edge.nvidia import driver as base

CAPTURE_THREAD_LOCAL, NON_BLOCKING, MEMORY_TYPE, DEVICE_ORDINAL = 1, 1, 2, 9


class Driver(base.Driver):
    """The driver through `pycuda.driver`, and through its own library."""

    def __init__(self) -> None:
        self._pycuda = import_module("pycuda.driver")
        self._libcuda = ctypes.CDLL("libcuda.so.1")
        type(self).error = self._pycuda.Error
        self._pycuda.init()
        self.name = f"pycuda {import_module('pycuda').VERSION_TEXT}"
        major, minor, _ = self._pycuda.get_version()
        self.toolkit = 1000 * major + 10 * minor

    def version(self) -> int:
        return int(self._pycuda.get_driver_version())

    def count(self) -> int:
        return int(self._pycuda.Device.count())

    def info(self, index: int) -> base.DeviceInfo:
        card, attribute = self._pycuda.Device(index), self._pycuda.device_attribute
        major, minor = card.compute_capability()
        return base.DeviceInfo(
            index,
            card.name(),
            10 * major + minor,
            card.total_memory(),
            bool(card.get_attribute(attribute.INTEGRATED)),
            self.version(),
        )

    def retain(self, index: int) -> base.Context:
        return _Context(self, self._pycuda.Device(index).retain_primary_context())

    def free_bytes(self) -> int:
        return int(self._pycuda.mem_get_info()[0])

    def memory(self, size: int) -> base.Memory:
        return _Memory(self._pycuda.mem_alloc(max(size, 1)))

    def host_memory(self, shape: tuple[int, ...], dtype: Any, is_mapped: bool) -> base.HostMemory:
        flags = self._pycuda.host_alloc_flags.DEVICEMAP if is_mapped else 0
        return _HostMemory(self._pycuda.pagelocked_empty(shape, dtype, mem_flags=flags), is_mapped)

    def stream(self) -> base.Stream:
        return _Stream(self._pycuda)

    def event(self) -> base.Event:
        return _Event(self._pycuda.Event())

    def begin_capture(self, stream: int) -> None:
        self.call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        graph = ctypes.c_void_p()
        self.call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return graph.value or 0

    def destroy_graph(self, graph: int) -> None:
        self.call("cuGraphDestroy", ctypes.c_void_p(graph))

    def instantiate(self, graph: int) -> int:
        executable, flags = ctypes.c_void_p(), ctypes.c_ulonglong(0)
        target = ctypes.byref(executable)
        self.call("cuGraphInstantiateWithFlags", target, ctypes.c_void_p(graph), flags)
        return executable.value or 0

    def launch(self, executable: int, stream: int) -> None:
        self.call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))

    def destroy_executable(self, executable: int) -> None:
        self.call("cuGraphExecDestroy", ctypes.c_void_p(executable))

    def synchronize(self, stream: int) -> None:
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def device_of(self, pointer: int) -> int:
        ordinal = ctypes.c_int(-1)
        address = ctypes.c_void_p(pointer)
        self.call("cuPointerGetAttribute", ctypes.byref(ordinal), DEVICE_ORDINAL, address)
        return ordinal.value

    def is_page_locked(self, pointer: int) -> bool:
        kind, address = ctypes.c_uint(0), ctypes.c_void_p(pointer)
        try:
            self.call("cuPointerGetAttribute", ctypes.byref(kind), MEMORY_TYPE, address)
        except self.error:  # memory that the driver does not know
            return False
        return kind.value == base.MEMORY_OF_HOST

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver's library; raises as PyCUDA does where it fails."""
        status = getattr(self._libcuda, name)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._libcuda.cuGetErrorString(status, ctypes.byref(text))
            reason = (text.value or b"unknown error").decode()
            raise self._pycuda.LogicError(f"{name} failed: {reason}")


class _Context(base.Context):
    def __init__(self, driver: Driver, context: Any) -> None:
        self._driver, self._context = driver, context

    def push(self) -> None:
        self._context.push()

    def pop(self) -> None:
        self._context.pop()

    def release(self) -> None:
        # PyCUDA releases a context of another thread only while it is current, and then leaves it
        # on the driver's stack.
        outer, popped = ctypes.c_void_p(), ctypes.c_void_p()
        call = self._driver.call
        call("cuCtxGetCurrent", ctypes.byref(outer))
        self._context.push()
        self._context.detach()
        call("cuCtxPopCurrent_v2", ctypes.byref(popped))
        if outer and popped.value == outer.value:  # PyCUDA has put its own one back on top
            call("cuCtxPopCurrent_v2", ctypes.byref(popped))
            call("cuCtxPushCurrent_v2", outer)


class _Memory(base.Memory):
    def __init__(self, allocation: Any) -> None:
        self._allocation, self.pointer = allocation, int(allocation)

    def close(self) -> None:
        self._allocation.free()


class _HostMemory(base.HostMemory):
    def __init__(self, array: Any, is_mapped: bool) -> None:
        self.array = array
        self.pointer = int(array.base.get_device_pointer()) if is_mapped else 0

    def close(self) -> None:
        self.array.base.free()


class _Event(base.Event):
    def __init__(self, event: Any) -> None:
        self._event = event

    def record(self, stream: Any) -> None:
        self._event.record(stream._stream)

    def milliseconds_since(self, start: Any) -> float:
        return float(self._event.time_since(start._event))

    def close(self) -> None:
        self._event = None


class _Stream(base.Stream):
    def __init__(self, pycuda: Any) -> None:
        self._pycuda, self._stream = pycuda, pycuda.Stream(NON_BLOCKING)
        self.handle = int(self._stream.handle)

    def upload(self, pointer: int, array: Any) -> None:
        self._pycuda.memcpy_htod_async(pointer, array, self._stream)

    def download(self, array: Any, pointer: int) -> None:
        self._pycuda.memcpy_dtoh_async(array, pointer, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        self._pycuda.memcpy_dtod_async(target, source, size, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self._stream = None
