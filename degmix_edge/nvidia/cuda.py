"""CUDA through PyCUDA: the one file that imports it.

The device's primary context is retained, which torch, CuPy and TensorRT use too; a context of our
own would make their pointers and ours strangers. Any thread may call in: it makes the context
current for itself and puts back what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from degmix_edge.errors import CudaError

CAPTURE_THREAD_LOCAL = 1
NON_BLOCKING = 1
"""Flag of a stream that does not wait for CUDA's default stream, which other libraries use.

A capture on any other stream is invalid as soon as another thread touches the default stream.
"""
DEVICE_ORDINAL = 9
"""Attribute of a pointer: the index of its device."""


@dataclass(frozen=True)
class DeviceInfo:
    """A card.

    Attributes:
        compute_capability: 10 major + minor: 87 is Orin.
        integrated: It shares its memory with the processor, as Jetsons do.
        driver: CUDA version of the driver, 1000 major + 10 minor.
    """

    index: int
    name: str
    compute_capability: int
    memory_bytes: int
    integrated: bool
    driver: int

    def __str__(self) -> str:
        """Return the name and the compute capability, as in `NVIDIA H200 (sm_90)`."""
        return f"{self.name} (sm_{self.compute_capability})"


def unavailable() -> str | None:
    """Why CUDA cannot be used here and what to do, or None."""
    if find_spec("pycuda") is None:
        return (
            "pycuda is not installed: pip install 'degmix-edge[tensorrt]' (it compiles, and needs "
            "the CUDA toolkit with nvcc on the PATH; on a Jetson that is /usr/local/cuda/bin)"
        )
    try:
        driver = _driver()
    except CudaError as error:
        return str(error)
    if driver.Device.count() == 0:
        return (
            "no CUDA device: is the driver loaded (nvidia-smi), and CUDA_VISIBLE_DEVICES not empty?"
        )
    return None


def _driver() -> Any:
    """PyCUDA's driver module, initialised.

    Raises:
        CudaError: The driver is missing or does not start.
    """
    try:
        driver = import_module("pycuda.driver")
        driver.init()
    except ImportError as error:
        raise CudaError(
            f"pycuda does not load ({error}): libcuda.so.1 comes with NVIDIA's driver, on a Jetson "
            f"with L4T; in a container run it with --gpus all or --runtime nvidia"
        ) from None
    except Exception as error:  # PyCUDA's errors share no base that can be named without it
        raise CudaError(f"the CUDA driver does not start: {error}") from None
    return driver


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """PyCUDA's errors as ours."""
    try:
        yield
    except CudaError:
        raise
    except MemoryError as error:
        raise CudaError(
            f"{what}: out of GPU memory ({error}); close other programs or use fewer lanes"
        ) from None
    except Exception as error:
        if not type(error).__module__.startswith("pycuda"):
            raise
        advice = "; close other programs or use fewer lanes" if "memory" in str(error) else ""
        raise CudaError(f"{what}: {error}{advice}") from None


class Device:
    """A card whose primary context is held until `close`.

    Raises:
        CudaError: No PyCUDA, no driver, or no such device.
    """

    def __init__(self, index: int = 0) -> None:
        reason = unavailable()
        if reason is not None:
            raise CudaError(reason)
        self._driver = _driver()
        count = self._driver.Device.count()
        if not 0 <= index < count:
            raise CudaError(f"device {index}: there are {count}, numbered from 0")
        with _errors(f"device {index}"):
            card = self._driver.Device(index)
            self._context: Any = card.retain_primary_context()
            attribute = self._driver.device_attribute
            major, minor = card.compute_capability()
            self.info = DeviceInfo(
                index,
                card.name(),
                10 * major + minor,
                card.total_memory(),
                bool(card.get_attribute(attribute.INTEGRATED)),
                self._driver.get_driver_version(),
            )

    @contextmanager
    def current(self) -> Iterator[Any]:
        """Make the context this thread's, and hand out PyCUDA's driver module."""
        if self._context is None:
            raise CudaError(f"{self.info}: used after it was closed")
        with _errors(str(self.info)):
            self._context.push()
            try:
                yield self._driver
            finally:
                self._driver.Context.pop()

    def free_bytes(self) -> int:
        """Number of bytes of device memory that are free now."""
        with self.current() as driver:
            return int(driver.mem_get_info()[0])

    def close(self) -> None:
        """Release the primary context, from any thread. A second time does nothing.

        PyCUDA's `detach` releases a context of another thread only while it is current, and leaves
        it on the driver's stack.
        """
        if self._context is None:
            return
        context, self._context = self._context, None
        outer, popped = ctypes.c_void_p(), ctypes.c_void_p()
        with _errors(str(self.info)):
            call("cuCtxGetCurrent", ctypes.byref(outer))
            context.push()
            context.detach()
            call("cuCtxPopCurrent_v2", ctypes.byref(popped))
            if outer and popped.value == outer.value:  # PyCUDA has put its own one back on top
                call("cuCtxPopCurrent_v2", ctypes.byref(popped))
                call("cuCtxPushCurrent_v2", outer)


class Buffer:
    """One tensor: a page-locked host array, and its memory on the device.

    On an integrated card the two are one, mapped, and copies are no copies. The buffer's owner
    closes it, on a stream that is done.

    Attributes:
        host: The array.
        pointer: The device's address of it.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: Any) -> None:
        self.device, self.is_mapped = device, device.info.integrated
        self.pointer = 0
        self._memory: Any = None
        with device.current() as driver, _errors(f"a buffer of {dtype} {shape}"):
            flags = driver.host_alloc_flags.DEVICEMAP if self.is_mapped else 0
            self.host: Any = driver.pagelocked_empty(shape, dtype, mem_flags=flags)
            try:
                if self.is_mapped:
                    self.pointer = int(self.host.base.get_device_pointer())
                else:
                    self._memory = driver.mem_alloc(max(self.host.nbytes, 1))
                    self.pointer = int(self._memory)
            except BaseException:
                self.host.base.free()
                raise

    def upload(self, stream: Any) -> None:
        """Host to device, asynchronously; the context is current."""
        if not self.is_mapped:
            self.device._driver.memcpy_htod_async(self.pointer, self.host, stream)

    def download(self, stream: Any) -> None:
        """Device to host, asynchronously; the context is current."""
        if not self.is_mapped:
            self.device._driver.memcpy_dtoh_async(self.host, self.pointer, stream)

    def copy_from(self, pointer: int, stream: Any) -> None:
        """Device to device, asynchronously, from memory of this size; the context is current."""
        with _errors(f"an image at {pointer:#x}"):
            self.device._driver.memcpy_dtod_async(self.pointer, pointer, self.host.nbytes, stream)

    def close(self) -> None:
        """Free the host array and the device memory."""
        with self.device.current():
            if self._memory is not None:
                self._memory.free()
            if self.pointer:
                self.host.base.free()
            self._memory, self.pointer = None, 0


class Graph:
    """What was enqueued on a stream while it was recorded, to be enqueued again at once.

    PyCUDA has no graphs; these are the driver's own functions.
    """

    def __init__(self) -> None:
        self._executable = ctypes.c_void_p()

    @classmethod
    def record(cls, stream: Any, enqueue: Callable[[], None]) -> Graph:
        """Record what `enqueue` puts on `stream`; nothing runs.

        Raises:
            CudaError: The driver refused; the stream is as it was. What `enqueue` raises passes.
        """
        graph, recorded = cls(), ctypes.c_void_p()
        handle = ctypes.c_void_p(stream.handle)
        call("cuStreamBeginCapture_v2", handle, CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            # The reason is what was raised; the capture that it broke has no graph, or a part.
            with contextlib.suppress(CudaError):
                call("cuStreamEndCapture", handle, ctypes.byref(recorded))
                call("cuGraphDestroy", recorded)
            raise
        call("cuStreamEndCapture", handle, ctypes.byref(recorded))
        executable = ctypes.byref(graph._executable)
        try:
            call("cuGraphInstantiateWithFlags", executable, recorded, ctypes.c_ulonglong(0))
        finally:
            call("cuGraphDestroy", recorded)
        return graph

    def launch(self, stream: Any) -> None:
        """Run the recorded work on `stream`."""
        call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def close(self) -> None:
        """Destroy it. A second time does nothing."""
        if self._executable:
            call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()


def device_of(pointer: int) -> int:
    """Index of the device that memory at `pointer` belongs to; a context is current.

    Raises:
        CudaError: It is no memory that a device can read: freed, or the host's.
    """
    ordinal = ctypes.c_int(-1)
    try:
        call(
            "cuPointerGetAttribute",
            ctypes.byref(ordinal),
            DEVICE_ORDINAL,
            ctypes.c_void_p(pointer),
        )
    except CudaError as error:
        raise CudaError(
            f"an image at {pointer:#x}, which is no device memory ({error}): was it freed?"
        ) from None
    return ordinal.value


_LIBRARY: list[Any] = []


def call(name: str, *arguments: Any) -> None:
    """A function of the driver's library, which PyCUDA has loaded.

    Raises:
        CudaError: It failed.
    """
    if not _LIBRARY:
        _LIBRARY.append(ctypes.CDLL("libcuda.so.1"))
    status = getattr(_LIBRARY[0], name)(*arguments)
    if status != 0:
        raise CudaError(f"{name}: CUDA error {status}")
